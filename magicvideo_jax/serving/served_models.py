"""The models of a page, by their names, and the weight files that may be put into them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from magicvideo_jax.core.checks import FieldError
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.paths import local_path
from magicvideo_jax.core.text import printable
from magicvideo_jax.experiment.requests.clip_request import ModelRequest
from magicvideo_jax.runtime.progress import say
from magicvideo_jax.serving.model_facts import ModelFacts
from magicvideo_jax.serving.request_text import ModelChoice
from magicvideo_jax.weights.tables.motion_keys import MODULES
from magicvideo_jax.weights.tensor_files import PICKLES, SAFETENSORS, open_tensors

_MOST_FILES = 500

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class ServedModel:
    """A model of the page."""

    request: ModelRequest
    facts: ModelFacts | None = None
    """None for a model that cannot be loaded (yet)."""
    trouble: str = ""
    """Why not."""


@dataclass(frozen=True)
class WeightFiles:
    """Files that may be put into a model, by the names that the page shows."""

    loras: Mapping[str, Path]
    motions: Mapping[str, Path]


class ServedModels:
    """All models; the first is the usual one."""

    def __init__(self, models: Mapping[str, ServedModel], files: WeightFiles):
        self.models, self.files = dict(models), files

    @property
    def names(self) -> list[str]:
        return list(self.models)

    def model(self, name: str) -> ServedModel:
        """A model by its name; empty: the first. Errors: `FieldError`."""
        return _chosen("model", name or self.names[0], self.models)

    def request(self, choice: ModelChoice) -> ModelRequest:
        """The request of a choice. Errors: `FieldError` for a name that is not here."""
        request = self.model(choice.model).request
        if choice.lora:
            path = _chosen("lora", choice.lora, self.files.loras)
            if not abs(choice.lora_scale) <= _LARGEST_SCALE:
                raise FieldError(
                    f"--lora_scale={choice.lora_scale}: give -{_LARGEST_SCALE} to {_LARGEST_SCALE}"
                )
            request = replace(request, lora=(*request.lora, f"{path}:{choice.lora_scale:f}"))
        if choice.motion:
            path = _chosen("motion", choice.motion, self.files.motions)
            request = replace(request, motion=str(path))
        return request

    def with_names(self, text: str) -> str:
        """A text with the page's names of weight files in place of their paths on the server."""
        for files in (self.files.loras, self.files.motions):
            for name, path in files.items():
                text = text.replace(str(path), name)
        return text


_LARGEST_SCALE = 100


def named_models(workdirs: Sequence[str]) -> dict[str, ModelRequest]:
    """A short name for each: the last part of its path, with a number where two are the same."""
    found: dict[str, ModelRequest] = {}
    for workdir in workdirs:
        stem = printable(Path(workdir).name or workdir)
        name, number = stem, 2
        while name in found:
            name, number = f"{stem} ({number})", number + 1
        found[name] = ModelRequest(workdir)
    return found


def find_weight_files(folders: Sequence[str]) -> WeightFiles:
    """LoRA files and motion modules of folders and of folders in them, by their paths there.

    Errors: `UserError` for a folder that is not there.
    """
    loras, motions = {}, {}
    for folder in folders:
        root = local_path(folder, argument="--weights_dir")
        if not root.is_dir():
            raise UserError(f"--weights_dir={folder}: no such folder")
        for path in _weight_files(root):
            name = printable(path.relative_to(root).as_posix())
            try:
                keys = [*open_tensors(path)]
            except UserError as error:
                say(f"left out: {error}")
                continue
            if any("lora" in key.lower() for key in keys):
                loras[name] = path
            elif any(MODULES in key for key in keys):
                motions[name] = path
    return WeightFiles(loras, motions)


def _weight_files(root: Path) -> Iterator[Path]:
    found = (path for pattern in ("*", "*/*") for path in sorted(root.glob(pattern)))
    for number, path in enumerate(
        path for path in found if path.suffix.lower() in (SAFETENSORS, *PICKLES) and path.is_file()
    ):
        if number == _MOST_FILES:
            say(
                f"--weights_dir={root}: more than {_MOST_FILES} weight files: the others are left out"
            )
            return
        yield path


def _chosen(field: str, name: str, known: Mapping[str, Kind]) -> Kind:
    if name not in known:
        names = ", ".join(known) or "none: start serve with --weights_dir"
        raise FieldError(f"--{field}={name[:80]}: give one of {names}")
    return known[name]
