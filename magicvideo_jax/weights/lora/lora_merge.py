"""LoRA added to weights while these are read: every kernel gets the sum of its updates, in float32.

    W = W_0 + sum_i s_i alpha_i / r_i up_i @ down_i                  s: the user's scale of a file

The order of files does not matter. Beside a kernel, one update is in host memory.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.weights.components import UNET, ComponentWeights
from magicvideo_jax.weights.locate import locate
from magicvideo_jax.weights.lora.lora_files import LoRAUpdate, open_lora
from magicvideo_jax.weights.param_sources import ParamSource, Shapes
from magicvideo_jax.weights.streaming import put

_SCALE = re.compile(r"(.+):([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)")
_LARGEST = 1e6


class LoRARequest(NamedTuple):
    """A LoRA file and the scale of its update."""

    file: str
    scale: float


def parse_lora(text: str, *, argument: str) -> LoRARequest:
    """Read `FILE` or `FILE:SCALE`; a number after the last colon is the scale, 1 without one.

    Errors: `UserError` naming `argument` where there is no file, or a scale beyond 1e6.
    """
    found = _SCALE.fullmatch(text)
    request = LoRARequest(found[1], float(found[2])) if found else LoRARequest(text, 1.0)
    if not request.file.strip() or not abs(request.scale) <= _LARGEST:
        raise UserError(f"{argument}={text}: give FILE or FILE:SCALE, as in style.safetensors:0.8")
    return request


def with_loras(
    parts: Mapping[str, ComponentWeights[Any]], loras: Sequence[str], *, argument: str
) -> dict[str, ComponentWeights[Any]]:
    """Networks by folder, to which LoRA files are added when they are read.

    `loras` are texts that `parse_lora` reads, whose FILE may be any that `locate` finds. Errors:
    `UserError` naming `argument` or the file: one that is not there, or made for another model. No
    factor is read.
    """
    if loras and UNET.folder not in parts:
        raise UserError(f"{argument}={loras[0]}: there is no U-Net to add it to: leave it out")
    terms: dict[str, dict[str, list[_Term]]] = {}
    for text in loras:
        request = parse_lora(text, argument=argument)
        for update in open_lora(locate(request.file, argument=argument), parts):
            by_path = terms.setdefault(update.layer.network, {})
            by_path.setdefault(update.layer.path, []).append(_Term(update, request.scale))
    return {
        name: replace(part, source=MergedParams(part.source, terms[name]))
        if name in terms
        else part
        for name, part in parts.items()
    }


class _Term(NamedTuple):
    update: LoRAUpdate
    scale: float

    def read(self) -> np.ndarray:
        return self.update.read(self.scale)


@dataclass(frozen=True)
class MergedParams:
    """Parameters of another source, with LoRA added; see `param_sources.ParamSource`."""

    source: ParamSource
    terms: Mapping[str, Sequence[_Term]]
    """Updates by the path of their kernel."""

    def match(self, shapes: Shapes, may_be_missing: Collection[str]) -> list[str]:
        """Paths that the source has."""
        return self.source.match(shapes, may_be_missing)

    def read(
        self, shapes: Shapes, placed: Mapping[str, jax.sharding.Sharding | None]
    ) -> Iterator[tuple[str, jax.Array]]:
        """Read each parameter, and add its updates."""
        for path, value in self.source.read(shapes, placed):
            terms = self.terms.get(path, ())
            if terms:
                update = sum((term.read() for term in terms[1:]), start=terms[0].read())
                value = value + put(update, placed[path])
            yield path, value
