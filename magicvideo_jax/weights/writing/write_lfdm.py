"""Writing the networks of latent flow diffusion as the checkpoints that LFDM's own code loads."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from magicvideo_jax.core.tree import flatten
from magicvideo_jax.diffusion.known_schedules import LFDM_NOISE
from magicvideo_jax.diffusion.schedule import schedule_of
from magicvideo_jax.models.lfdm.flow_sampling import gaussian
from magicvideo_jax.weights.components import ComponentWeights, Weights
from magicvideo_jax.weights.flow_components import FLOW_UNET, LATENT_FLOW
from magicvideo_jax.weights.tables.lavie_keys import rotary_frequencies
from magicvideo_jax.weights.tables.lfdm_keys import (
    BLUR_KEYS,
    COUNTER,
    DIFFUSION_ENTRY,
    FLOW_ENTRIES,
    FLOW_UNET_TABLES,
    LATENT_FLOW_TABLE,
    frequency_keys_of_flow,
)
from magicvideo_jax.weights.tables.naming import Layout, Name, Table, name_of
from magicvideo_jax.weights.writing.write_folders import ProgressFactory, no_progress
from magicvideo_jax.weights.writing.write_torch_file import WrittenTensor, write_torch_file

Buffers = dict[str, np.ndarray]


class LatentFlowFileForm:
    """The auto-encoder as `generator`, `region_predictor` and `bg_predictor`."""

    words = "an auto-encoder of flow (LFDM)"

    def matches(self, weights: Weights) -> bool:
        """Whether weights have an auto-encoder of flow."""
        return LATENT_FLOW.folder in weights.parts

    def notes(self, weights: Weights) -> tuple[str, ...]:
        """A line about what the file does not hold."""
        del weights
        return (_NOTE,)

    def write(
        self,
        weights: Weights,
        file: Path,
        *,
        dtype: type = np.float32,
        progress: ProgressFactory = no_progress,
    ) -> None:
        """Write the file, in float32 whatever `dtype` is: it is what LFDM's code computes in."""
        del dtype
        part = weights.parts[LATENT_FLOW.folder]
        tensors = _written(part, LATENT_FLOW_TABLE, partial(_flow_buffers, part), progress)
        entries = {
            entry: {
                key.removeprefix(f"{entry}."): x
                for key, x in tensors.items()
                if key.startswith(f"{entry}.")
            }
            for entry in FLOW_ENTRIES
        }
        write_torch_file(file, entries)


class FlowDiffusionFileForm:
    """The U-Net and the noise schedule as `diffusion`."""

    words = "a U-Net of flow (LFDM)"

    def matches(self, weights: Weights) -> bool:
        """Whether weights have a U-Net of flow."""
        return FLOW_UNET.folder in weights.parts

    def notes(self, weights: Weights) -> tuple[str, ...]:
        """Lines about what the file does not hold."""
        if weights.noise in (None, LFDM_NOISE):
            return (_NOTE,)
        return (_NOTE, _OTHER_NOISE)

    def write(
        self,
        weights: Weights,
        file: Path,
        *,
        dtype: type = np.float32,
        progress: ProgressFactory = no_progress,
    ) -> None:
        """Write the file, in float32 whatever `dtype` is."""
        del dtype
        part = weights.parts[FLOW_UNET.folder]
        table = FLOW_UNET_TABLES[part.config.upsampling]
        write_torch_file(
            file, {DIFFUSION_ENTRY: _written(part, table, _diffusion_buffers, progress)}
        )


_NOTE = "the file holds no state of an optimizer: LFDM's code trains on with a fresh one"

_OTHER_NOISE = (
    "the U-Net was trained with another noise schedule or prediction than LFDM's, which the file stands "
    "for: what opens it samples wrongly"
)


def _written(
    part: ComponentWeights[Any],
    table: Table,
    buffers: Callable[[list[str]], Buffers],
    progress: ProgressFactory,
) -> dict[str, WrittenTensor]:
    """All tensors of a network's checkpoint: its parameters, and the buffers of the file that it came from,
    or those that such a network has."""
    shapes = part.shapes()
    with progress(part.kind.words, sum(x.size * 4 for x in jax.tree.leaves(shapes))) as tick:
        flat = flatten(part.load(shapes, tick=tick))
    names = {path: name_of(table, path, len(x.shape)) for path, x in flat.items()}

    def parameter(path: str, name: Name) -> WrittenTensor:
        layout: Layout = name.layout
        shape = layout.shape_of(flat[path].shape)
        return WrittenTensor(shape, "F32", lambda: layout.to_theirs(np.asarray(flat[path])))

    tensors = {name.key: parameter(path, name) for path, name in names.items()}
    stored: Mapping[str, Any] = getattr(part.source, "buffers", {})
    if stored:
        return tensors | {key: WrittenTensor(x.shape, x.dtype, x.read) for key, x in stored.items()}
    return tensors | {
        key: WrittenTensor(x.shape, "I64" if x.dtype == np.int64 else "F32", partial(np.asarray, x))
        for key, x in buffers(list(tensors)).items()
    }


def _flow_buffers(part: ComponentWeights[Any], keys: list[str]) -> Buffers:
    """Kernels of fixed blurs, and counters of norms, which count from nothing."""
    line = gaussian(1 / part.config.flow_factor)
    blur = np.broadcast_to(line[:, None] * line[None], (3, 1, len(line), len(line)))
    buffers = (
        {} if part.config.flow_factor == 1 else dict.fromkeys(BLUR_KEYS, blur.astype(np.float32))
    )
    norms = [key.removesuffix("running_mean") for key in keys if key.endswith(".running_mean")]
    return buffers | {f"{norm}{COUNTER}": np.zeros((), np.int64) for norm in norms}


def _diffusion_buffers(keys: list[str]) -> Buffers:
    """The schedule as the code of DDPM keeps it, and constants of rotary embeddings."""
    buffers = {name: x.astype(np.float32) for name, x in _schedule_buffers().items()}
    return buffers | dict.fromkeys(frequency_keys_of_flow(keys), rotary_frequencies())


def _schedule_buffers() -> Buffers:
    abar = schedule_of(LFDM_NOISE).alphas_cumprod
    before = np.append(1.0, abar[:-1])
    alpha = abar / before
    beta = 1 - alpha
    variance = beta * (1 - before) / (1 - abar)
    return {
        "betas": beta,
        "alphas_cumprod": abar,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": np.sqrt(abar),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - abar),
        "log_one_minus_alphas_cumprod": np.log(1 - abar),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / abar),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / abar - 1),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
        "posterior_mean_coef1": beta * np.sqrt(before) / (1 - abar),
        "posterior_mean_coef2": (1 - before) * np.sqrt(alpha) / (1 - abar),
    }
