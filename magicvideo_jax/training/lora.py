"""Training of LoRA: low-rank updates beside frozen kernels (Hu et al. 2106.09685).

    W = W_0 + down (s up),    s = alpha / rank,    up = 0 at the start                  (1)

The factors are parameters beside their kernel, `lora_down` and `lora_up`, and the only ones that
train. Networks never see them: the loss is that of the merged kernels W.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from magicvideo_jax.core.checks import at_least, positive
from magicvideo_jax.core.keys import subkey
from magicvideo_jax.core.tree import flatten, unflatten
from magicvideo_jax.core.types import Params
from magicvideo_jax.training.step import Metrics, Objective, StepNumber
from magicvideo_jax.weights.lora.lora_factors import factor_shapes, low_rank_update

DOWN, UP = "lora_down", "lora_up"
"""Names of the factors, in the place of `kernel`."""

FactorsByKernel = Mapping[str, tuple[Array, Array]]
"""`down` and `up` by the dotted path of their kernel."""


class LoRALayers(Enum):
    """Layers whose kernels get an update, in the networks of `model.trained`."""

    TRANSFORMERS = "transformers"
    """All linear layers of the image model's transformers, as kohya's trainer: 192 of Stable
    Diffusion's U-Net, 72 of its text encoder."""
    ATTENTION = "attention"
    """Query, key, value and output of the image model's attention alone, as diffusers' trainer."""
    TEMPORAL = "temporal"
    """Query, key, value and output of all attention over frames, as MotionLoRA."""
    ALL = "all"
    """`transformers` and `temporal`."""


_PROJECTIONS = r"to_(q|k|v|out)"
_ATTENTION = (
    rf"\.transformer\.transformer_blocks\.\d+\.attn\d\.{_PROJECTIONS}",
    r"^layers\.\d+\.([qkv]|out)_proj",
)
_TRANSFORMERS = (
    *_ATTENTION,
    r"\.transformer\.(transformer_blocks\.\d+\.ff\.)?proj_(in|out)",
    r"^layers\.\d+\.fc\d",
)
_TEMPORAL = (
    rf"\.motion_module\.transformer_blocks\.\d+\.attn\d\.{_PROJECTIONS}",
    rf"\.temporal\.{_PROJECTIONS}",
)
_LAYERS = {
    LoRALayers.TRANSFORMERS: _TRANSFORMERS,
    LoRALayers.ATTENTION: _ATTENTION,
    LoRALayers.TEMPORAL: _TEMPORAL,
    LoRALayers.ALL: (*_TRANSFORMERS, *_TEMPORAL),
}
"""Patterns of the layers' paths within a network: U-Net or text encoder."""


@dataclass(frozen=True)
class LoRAConfig:
    """LoRA that `optim.freeze=lora` trains."""

    rank: int = 16
    alpha: float | None = None
    """Numerator of the update's scale alpha / rank; None: the rank, for a scale of 1."""
    layers: LoRALayers = LoRALayers.TRANSFORMERS

    def __post_init__(self) -> None:
        at_least(1, self, "rank")
        positive(self, "alpha")

    @property
    def scale(self) -> float:
        """s of eq. 1."""
        return 1.0 if self.alpha is None else self.alpha / self.rank


def lora_shapes(network: Params, config: LoRAConfig) -> Params:
    """Shapes of the factors of a network, given the shapes of its parameters; float32."""
    chosen = re.compile(rf"({'|'.join(_LAYERS[config.layers])})\.kernel$")
    factors: dict[str, jax.ShapeDtypeStruct] = {}
    for path, kernel in flatten(network).items():
        if chosen.search(path):
            layer = path.rpartition(".")[0]
            down, up = factor_shapes(kernel.shape, config.rank)
            factors[f"{layer}.{DOWN}"] = jax.ShapeDtypeStruct(down, jnp.float32)
            factors[f"{layer}.{UP}"] = jax.ShapeDtypeStruct(up, jnp.float32)
    return unflatten(factors)


def fresh_factors(shapes: Params, key: PRNGKeyArray) -> Params:
    """Draw factors of these shapes: `down` uniform within 1 / sqrt(inputs), as a linear layer of
    PyTorch begins, and `up` zero."""

    def draw(path: str, shape: tuple[int, ...]) -> Float[Array, "..."]:
        if path.endswith(f".{UP}"):
            return jnp.zeros(shape)
        bound = math.prod(shape[:-1]) ** -0.5
        return jax.random.uniform(subkey(key, path), shape, minval=-bound, maxval=bound)

    return unflatten({path: draw(path, x.shape) for path, x in flatten(shapes).items()})


def merge_lora(params: Params, config: LoRAConfig) -> Params:
    """Parameters with each kernel's factors added to it (eq. 1) and left out; without factors, the
    same parameters."""
    flat = flatten(params)
    for path in [path for path in flat if path.endswith(f".{DOWN}")]:
        layer = path.rpartition(".")[0]
        down, up = flat.pop(path), flat.pop(f"{layer}.{UP}")
        flat[f"{layer}.kernel"] = _merged(flat[f"{layer}.kernel"], down, up, config.scale)
    return unflatten(flat)


@partial(jax.jit, static_argnames="scale")
def _merged(
    kernel: Float[Array, "*k i o"],
    down: Float[Array, "*k i r"],
    up: Float[Array, "r o"],
    scale: float,
) -> Float[Array, "*k i o"]:
    # Accelerators round the inputs of float32 products unless told otherwise.
    with jax.default_matmul_precision("highest"):
        return kernel + low_rank_update(down, up, scale)


def lora_objective(objective: Objective, config: LoRAConfig) -> Objective:
    """Objective of merged kernels, as a function of the factors and the frozen kernels."""

    def merged(
        params: Params, batch: Any, key: PRNGKeyArray, step: StepNumber, /
    ) -> tuple[Float[Array, ""], Metrics]:
        return objective(merge_lora(params, config), batch, key, step)

    return merged


def lora_factors(params: Params) -> FactorsByKernel:
    """Factors among a network's parameters, by the path of their kernel."""
    flat = flatten(params)
    return {
        f"{path.removesuffix(DOWN)}kernel": (down, flat[f"{path.removesuffix(DOWN)}{UP}"])
        for path, down in flat.items()
        if path.endswith(f".{DOWN}")
    }
