"""A LoRA as one safetensors file in the forms of other programs: two factors for each layer."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.weights.components import TEXT, UNET
from magicvideo_jax.weights.lora.lora_factors import factors_to_torch
from magicvideo_jax.weights.tables.lora_keys import ANIMATEDIFF, DIFFUSERS, KOHYA, LoRAForm
from magicvideo_jax.weights.tables.naming import Layout, layer_name
from magicvideo_jax.weights.writing.write_safetensors import write_safetensors

Factors = Mapping[str, Mapping[str, tuple[ArrayLike, ArrayLike]]]
"""`down` and `up` in our layout by network and the dotted path of their kernel."""


class LoRAFileForm(NamedTuple):
    """A form to write."""

    form: LoRAForm
    has_alpha: bool
    """Whether a file says alpha; in others it is multiplied into `up`."""


LORA_FILE_FORMS = {
    "kohya_lora": LoRAFileForm(KOHYA, has_alpha=True),
    "diffusers_lora": LoRAFileForm(DIFFUSERS, has_alpha=False),
    "motion_lora": LoRAFileForm(ANIMATEDIFF, has_alpha=False),
}
"""Forms by their name on a command line."""


def write_lora(
    file: Path, factors: Factors, name: str, *, scale: float, dtype: type = np.float32
) -> None:
    """Write factors, whose product is added times `scale`, in a form of `LORA_FILE_FORMS`.

    `open_lora` reads the same updates from every form. Errors: `UserError` naming a layer that has
    no name in the form.
    """
    form = LORA_FILE_FORMS[name]
    tensors = {
        key: array
        for network, by_kernel in factors.items()
        for path, pair in by_kernel.items()
        for key, array in _tensors(form, name, network, path, pair, scale)
    }
    write_safetensors(
        file,
        ((key, Layout.SAME, array) for key, array in tensors.items()),
        {key: array.shape for key, array in tensors.items()},
        dtype=dtype,
    )


def _tensors(
    form: LoRAFileForm,
    name: str,
    network: str,
    path: str,
    pair: tuple[ArrayLike, ArrayLike],
    scale: float,
) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors of one layer, by their keys."""
    ours, up = (np.asarray(factor) for factor in pair)
    table = {kind.folder: kind.table for kind in (UNET, TEXT)}[network]
    layer = layer_name(table, path, ours.ndim)
    names = next(form.form.names(network, layer), None)
    if names is None:
        raise UserError(
            f"--to={name}: {form.form.name} LoRA files have no name for the layer {layer}: give "
            "--to=kohya_lora or --to=diffusers_lora"
        )
    down, theirs = factors_to_torch(ours, up if form.has_alpha else up * np.float32(scale))
    yield names.down, down
    yield names.up, theirs
    if form.has_alpha:
        yield names.alpha, np.asarray(scale * ours.shape[-1], np.float32)
