"""One network as it is published: `config.json` and its weights at the top of a folder."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig
from magicvideo_jax.diffusion.process import Prediction
from magicvideo_jax.weights.components import PIPELINE_PARTS, UNET, ComponentSpec, Weights
from magicvideo_jax.weights.folders import CONFIG, INDEX, assumed_noise, open_torch_part
from magicvideo_jax.weights.formats.weight_format import OpenOptions
from magicvideo_jax.weights.motion_json import MOTION_UNET
from magicvideo_jax.weights.motion_weights import has_motion
from magicvideo_jax.weights.tables.motion_keys import DIFFUSERS_KEYS
from magicvideo_jax.weights.tensor_files import read_json

_CLASSES = {
    **{kind.library[1]: kind for kind in PIPELINE_PARTS},
    MOTION_UNET: UNET,
    "CLIPModel": PIPELINE_PARTS[-1],
    "CLIPTextModelWithProjection": PIPELINE_PARTS[-1],
}


class LoneFolder:
    """A VAE (`sd-vae-ft-mse`), a U-Net or a text encoder, in diffusers' or transformers' layout."""

    name = "a folder of one network with its config.json"

    def matches(self, path: Path) -> bool:
        """Whether `config.json` names a class of PyTorch's libraries."""
        if (path / INDEX).exists() or not (path / CONFIG).is_file():
            return False
        return bool(_classes_of(read_json(path / CONFIG)))

    def open(self, path: Path, options: OpenOptions) -> Weights:
        """Open the network. The folder of a U-Net holds no schedule: that of Stable Diffusion 1.x, or of
        AnimateDiff where there are motion modules, is assumed, with a note."""
        kind = _kind_of(path)
        if kind is not UNET:
            options.refuse_all_but("variant", path=path, why=f"a {kind.words}")
            part, notes = open_torch_part(kind, path, variant=options.variant)
            return Weights({kind.folder: part}, notes=notes)
        options.refuse_all_but("variant", "prediction", "tokenizer", path=path, why="a folder")
        part, notes = open_torch_part(kind, path, variant=options.variant)
        usual = DIFFUSERS_KEYS.noise if has_motion(part) else NoiseScheduleConfig()
        noise = replace(usual, prediction_type=options.prediction or Prediction.EPS)
        said = (
            f"{path} holds a U-Net alone: it predicts {noise.prediction_type.value}, by assumption"
        )
        return Weights(
            {kind.folder: part},
            tokenizer=options.tokenizer,
            notes=notes if options.prediction else (*notes, said),
            **assumed_noise(noise),
        )


def _classes_of(content: Mapping[str, Any]) -> list[str]:
    named = content.get("_class_name") or content.get("architectures") or []
    return [named] if isinstance(named, str) else [str(name) for name in named]


def _kind_of(path: Path) -> ComponentSpec[Any]:
    named = _classes_of(read_json(path / CONFIG))
    for name in named:
        if name in _CLASSES:
            return _CLASSES[name]
    raise UserError(
        f"{path / CONFIG}: a {', '.join(named)}; supported: {', '.join(_CLASSES)}, or a whole pipeline"
    )
