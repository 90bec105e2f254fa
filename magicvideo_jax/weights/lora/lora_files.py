"""LoRA files, opened: which kernels of a model they change, by how much, and nothing read yet."""

import math
import re
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.weights.components import TEXT, UNET, ComponentWeights
from magicvideo_jax.weights.formats.motion_files import is_motion_adapter
from magicvideo_jax.weights.lora.lora_factors import (
    ArrayShape,
    factors_fit,
    factors_of_torch,
    low_rank_update,
)
from magicvideo_jax.weights.lora.peft_metadata import adapter_settings
from magicvideo_jax.weights.match import refuse
from magicvideo_jax.weights.streaming import check_finite
from magicvideo_jax.weights.tables.compvis_keys import UNetNumbering
from magicvideo_jax.weights.tables.known_extras import name_of_kind
from magicvideo_jax.weights.tables.lora_keys import (
    ABSENT_LAYERS,
    MOTION_MODULES,
    REFUSED_LORAS,
    FactorNames,
    LoRAForm,
    forms_for,
)
from magicvideo_jax.weights.tables.naming import layer_name
from magicvideo_jax.weights.tensor_files import has_tensors, kind_of, open_tensors
from magicvideo_jax.weights.tensors import FLOATS, NUMBERS, Stored, Tensors

_FILES = tuple(
    f"{stem}.{ending}"
    for stem in ("pytorch_lora_weights", "adapter_model", "diffusion_pytorch_model")
    for ending in ("safetensors", "bin")
)
"""Names of a LoRA's file in a folder: diffusers', PEFT's, that of published MotionLoRA."""
_SUPPORTED = "LoRA for Stable Diffusion 1.x and 2.x"
_LISTED = 2
_MADE_FOR = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}
"""Models by the width of their text states."""


class KernelLayer(NamedTuple):
    """A layer that LoRA may change."""

    network: str
    path: str
    """Dotted path of its kernel in the network's parameters."""
    name: str
    """diffusers' name of the layer."""
    kernel: ArrayShape


class LoRAUpdate(NamedTuple):
    """Update of one kernel; `read` forms it in our layout, float32."""

    layer: KernelLayer
    down: Stored
    up: Stored
    scale: float
    """alpha / rank."""
    where: str

    def read(self, scale: float) -> np.ndarray:
        """The update times `scale`. Errors: `UserError` for factors that are not finite."""
        factors = [stored.read().astype(np.float32, copy=False) for stored in (self.down, self.up)]
        for factor in factors:
            check_finite(factor, self.where)
        down, up = factors_of_torch(self.layer.kernel, *factors)
        return low_rank_update(down, up, scale * self.scale)


def kernel_layers(parts: Mapping[str, ComponentWeights[Any]]) -> list[KernelLayer]:
    """Linear layers and convolutions of the U-Net and the text encoder among `parts`."""
    return [
        KernelLayer(kind.folder, path, layer_name(kind.table, path, x.ndim), x.shape)
        for kind in (UNET, TEXT)
        if kind.folder in parts
        for path, x in flatten(parts[kind.folder].network().shapes).items()
        if path.endswith(".kernel")
    ]


def lora_forms(parts: Mapping[str, ComponentWeights[Any]]) -> tuple[LoRAForm, ...]:
    """Forms of names for these networks."""
    if UNET.folder not in parts:
        return forms_for(UNetNumbering(0, ()))
    config = parts[UNET.folder].config
    return forms_for(UNetNumbering(config.blocks, tuple(x.heads > 0 for x in config.levels)))


def open_lora(path: Path, parts: Mapping[str, ComponentWeights[Any]]) -> list[LoRAUpdate]:
    """Open a LoRA in any known form for these networks; no factor is read.

    `path` is a file, or a folder that holds one under its usual name. Errors: `UserError` naming
    the file and what does not fit: another kind of adapter, layers that the networks do not have,
    other widths.
    """
    if is_motion_adapter(path):
        raise UserError(f"{path}: holds {MOTION_MODULES}; supported: {_SUPPORTED}")
    file = _file_in(path)
    tensors = {key.removeprefix("module."): x for key, x in open_tensors(file).items()}
    what = name_of_kind(tensors, REFUSED_LORAS)
    if what:
        raise UserError(f"{file}: holds {what}; supported: {_SUPPORTED}")
    forms = lora_forms(parts)
    found = [(layer, _names_in(tensors, layer, forms)) for layer in kernel_layers(parts)]
    named = [(layer, names) for layer, names in found if names is not None]
    _check_all_used(file, tensors, {key for _, names in named for key in names})
    _check_factors(file, tensors, named)
    settings = {kind.folder: adapter_settings(file, kind.folder) for kind in (UNET, TEXT)}
    for network, one in settings.items():
        one.check([layer.name for layer, _ in named if layer.network == network], str(file))

    def update(layer: KernelLayer, names: FactorNames) -> LoRAUpdate:
        down, up = tensors[names.down], tensors[names.up]
        rank = down.shape[0]
        scale = settings[layer.network].scale(layer.name, rank)
        if names.alpha in tensors:
            scale = _alpha(tensors[names.alpha], f"{file}: {names.alpha}") / rank
        return LoRAUpdate(layer, down, up, scale, f"{file}: {names.down} or {names.up}")

    return [update(layer, names) for layer, names in named]


def file_in_folder(folder: Path) -> Path | None:
    """The file of a folder that has a usual name of a LoRA's; None without one."""
    return next((folder / name for name in _FILES if (folder / name).is_file()), None)


def _file_in(path: Path) -> Path:
    """The LoRA's file: the path itself, or the one in a folder."""
    file = file_in_folder(path) if path.is_dir() else path
    if file is None:
        raise UserError(f"{path}: no LoRA in this folder; looked for {', '.join(_FILES)}")
    if not has_tensors(file):
        raise UserError(f"{file}: {kind_of(file).value}")
    return file


def _names_in(
    tensors: Tensors, layer: KernelLayer, forms: Sequence[LoRAForm]
) -> FactorNames | None:
    """The first of a layer's names under which a file has a factor, if any."""
    for form in forms:
        for names in form.names(layer.network, layer.name):
            if names.down in tensors or names.up in tensors:
                return names
    return None


def _check_all_used(file: Path, tensors: Tensors, used: Set[str]) -> None:
    """Errors: `UserError` that says what the keys belong to which no layer of the networks has."""
    unknown = sorted(key for key in tensors if key not in used)
    if not unknown:
        if not tensors:
            raise UserError(f"{file}: holds no tensors: get the file anew")
        return
    named = f"{', '.join(unknown[:_LISTED])}{', ...' if len(unknown) > _LISTED else ''}"
    what = next(
        (what for row, what in ABSENT_LAYERS if all(re.fullmatch(row, key) for key in unknown)),
        "layers that the model does not have: give a LoRA made for it",
    )
    raise UserError(f"{file}: {len(unknown)} of its {len(tensors)} keys ({named}) are for {what}")


def _check_factors(
    file: Path, tensors: Tensors, named: Sequence[tuple[KernelLayer, FactorNames]]
) -> None:
    """Errors: `UserError` that lists factors which are missing, of the wrong shape or no floats."""
    missing, wrong = list[str](), list[str]()
    other = ""
    for layer, names in named:
        absent = [key for key in (names.down, names.up) if key not in tensors]
        missing += absent
        if absent:
            continue
        down, up = tensors[names.down], tensors[names.up]
        if not factors_fit(layer.kernel, down.shape, up.shape):
            inputs, outputs = layer.kernel[-2:]
            wrong.append(f"{names.down} {down.shape} and up {up.shape}, not {inputs} -> {outputs}")
            if layer.name.endswith("attn2.to_k") and len(down.shape) > 1:
                other = _MADE_FOR.get(down.shape[1], other)
        elif not {down.dtype, up.dtype} <= FLOATS.keys():
            wrong.append(f"{names.down} of {down.dtype} and {up.dtype}")
    advice = f"; it was made for {other}: give one made for this model" if other else ""
    refuse(str(file), missing=missing, extra=(), wrong=wrong, advice=advice)


def _alpha(stored: Stored, where: str) -> float:
    if math.prod(stored.shape) != 1 or stored.dtype not in NUMBERS:
        raise UserError(f"{where}: {stored.shape} of {stored.dtype}, not a number: save it again")
    value = float(stored.read().reshape(()))
    if not math.isfinite(value):
        raise UserError(f"{where}: {value}, not a finite number: save it again")
    return value
