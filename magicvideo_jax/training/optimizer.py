"""AdamW or Muon with warm-up and gradient clipping, and the selection of trained parameters."""

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, cast

import jax.numpy as jnp
import optax
import optax.contrib

from magicvideo_jax.core.checks import at_least, below_one, positive, refused
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import flatten, unflatten
from magicvideo_jax.core.types import Params
from magicvideo_jax.models.lfdm.batch_norm import is_statistic
from magicvideo_jax.models.temporal import VIDEO_PARTS, TemporalConfig
from magicvideo_jax.models.temporal_layers import temporal_layers
from magicvideo_jax.training.gradient_norm import clip_by_norm
from magicvideo_jax.training.lora import DOWN, UP, LoRAConfig


class Freeze(Enum):
    """Part of the network that is trained."""

    ALL = "all"
    """All parameters, as in the paper."""
    TEMPORAL = "temporal"
    """All that a video network adds to its image network, which is frozen."""
    ADAPTOR = "adaptor"
    """Frame-wise adaptors only."""
    DECODER = "decoder"
    """Whole decoder of a VideoVAE, whereas `temporal` trains only its temporal layers."""
    LORA = "lora"
    """Low-rank updates beside kernels (`OptimConfig.lora`); the networks are frozen."""


class KernelUpdate(Enum):
    """How kernels are updated: the matrices of products and convolutions."""

    ADAMW = "adamw"
    MUON = "muon"
    """Momentum with its singular values made equal (Jordan et al. 2024), at the size of AdamW's
    updates (Liu et al. 2502.16982), so that learning rates mean the same. Everything else has AdamW
    with Nesterov momentum."""


_MUON_RMS = 0.2
"""Root mean square of an update over the learning rate (2502.16982, eq. 4)."""
_MUON_ITERATIONS = 3
"""Newton-Schulz iterations; Muon's five cost a CPU a third of a small network's step, and learn no more."""

DISCRIMINATOR = "discriminator"
"""Key of a discriminator's parameters."""

_STATISTICS = "statistics"
"""Name of the batch statistics among parameters."""

_DISCRIMINATOR_B1, _DISCRIMINATOR_B2 = 0.5, 0.9
"""Low betas, because the generator that a discriminator trains against keeps changing."""

_TRAINED = {
    Freeze.ALL: r"",
    Freeze.TEMPORAL: rf"(^|\.)({'|'.join(VIDEO_PARTS)})\d?\.",
    Freeze.ADAPTOR: r"(^|\.)adaptor\d?\.",
    Freeze.DECODER: r"^(decoder|post_quant_conv)\.",
    Freeze.LORA: rf"\.({DOWN}|{UP})$",
}


@dataclass(frozen=True)
class OptimConfig:
    """AdamW (Loshchilov & Hutter 1711.05101), or Muon for kernels and AdamW for the rest."""

    lr: float = 1e-4
    temporal_lr: float | None = None
    """Learning rate of the parameters that `Freeze.TEMPORAL` trains; None: `lr`."""
    kernels: KernelUpdate = KernelUpdate.ADAMW
    warmup: int = 100
    """Steps of linear warm-up from 0 to `lr`."""
    milestones: tuple[int, ...] = ()
    """Steps from which `lr` is a tenth of what it was."""
    decay: bool = False
    """Whether `lr` decays to a tenth along a cosine until the last step, or is constant."""
    b1: float = 0.9
    b2: float = 0.999
    weight_decay: float = 0.01
    decay_kernels_only: bool = False
    """Whether weight decay spares biases, norms, adaptors and embeddings; AdamW as published decays everything."""
    grad_clip_norm: float = 1.0
    """Global norm to which gradients are clipped."""
    ema_decay: float = 0.999
    freeze: Freeze = Freeze.ALL
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    discriminator_lr: float = 1e-4
    """Learning rate of a VideoVAE's discriminator, constant over the run."""

    def __post_init__(self) -> None:
        positive(self, "lr", "temporal_lr", "discriminator_lr", "grad_clip_norm")
        at_least(0, self, "warmup", "weight_decay")
        falls = list(self.milestones)
        if min(falls, default=1) < 1 or falls != sorted(set(falls)):
            raise refused(self, "milestones", "give steps in ascending order")
        if self.milestones and self.decay:
            raise refused(
                self, "milestones", "give none: with decay=True the rate follows a cosine"
            )
        below_one(self, "b1", "b2", "ema_decay")


def is_trained(freeze: Freeze, path: str) -> bool:
    """Whether a freeze mode trains the parameter at a dotted path."""
    return re.search(_TRAINED[freeze], path) is not None


def trains_layers(freeze: Freeze, temporal: TemporalConfig | None) -> bool:
    """Whether a freeze mode trains any temporal layer of a U-Net: the embedding of the frame rate
    alone would learn nothing about motion."""
    names = [layer.name for layer in temporal_layers(temporal)]
    names += ["known_frames"] if temporal is not None and temporal.known_frames else []
    return any(is_trained(freeze, f"{name}.") for name in names)


def check_optimizer(config: OptimConfig, steps: int) -> None:
    """Errors: `UserError` for a warm-up that is not shorter than the run."""
    if config.warmup >= steps:
        raise UserError(
            f"config.optim.warmup={config.warmup}: give 0 up to less than train.steps={steps}"
        )


def make_optimizer(
    config: OptimConfig,
    steps: int,
    *,
    with_discriminator: bool = False,
    with_statistics: bool = False,
) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW on a schedule; `DISCRIMINATOR` parameters have an
    optimizer of their own, and batch statistics move to where their gradients say
    (`batch_statistics`).

    Errors: those of `check_optimizer`.
    """
    check_optimizer(config, steps)
    if config.decay:
        rate = optax.warmup_cosine_decay_schedule(
            0.0, config.lr, config.warmup, steps, config.lr / 10
        )
    else:
        rate = optax.linear_schedule(0.0, config.lr, config.warmup) if config.warmup else config.lr
        if config.milestones:
            rate = _falling_rate(config)
    ratio = 1.0 if config.temporal_lr is None else config.temporal_lr / config.lr
    update = _muon if config.kernels is KernelUpdate.MUON else _adamw
    network = optax.chain(
        clip_by_norm(config.grad_clip_norm),
        update(config, rate),
        optax.masked(optax.scale(ratio), _are_temporal),
    )
    if with_statistics:
        return optax.partition(
            {"networks": network, _STATISTICS: optax.sgd(1.0)}, _statistics_apart
        )
    if not with_discriminator:
        return network
    discriminator = optax.chain(
        clip_by_norm(config.grad_clip_norm),
        optax.adamw(
            config.discriminator_lr, b1=_DISCRIMINATOR_B1, b2=_DISCRIMINATOR_B2, weight_decay=0.0
        ),
    )
    return optax.partition(
        {"networks": network, DISCRIMINATOR: discriminator},
        lambda params: {
            name: DISCRIMINATOR if name == DISCRIMINATOR else "networks" for name in params
        },
    )


def _falling_rate(config: OptimConfig) -> optax.Schedule:
    """Warm-up to `lr`, a tenth of it from each milestone on."""
    falls = optax.piecewise_constant_schedule(config.lr, dict.fromkeys(config.milestones, 0.1))
    if not config.warmup:
        return falls
    return lambda step: falls(step) * jnp.minimum(step / config.warmup, 1.0)


def _statistics_apart(params: Params) -> Params:
    return unflatten(
        {path: _STATISTICS if is_statistic(path) else "networks" for path in flatten(params)}
    )


def _adamw(config: OptimConfig, rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    return optax.adamw(
        rate,
        b1=config.b1,
        b2=config.b2,
        weight_decay=config.weight_decay,
        mask=_are_kernels if config.decay_kernels_only else None,
    )


def _muon(config: OptimConfig, rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    return optax.contrib.muon(
        rate,
        ns_steps=_MUON_ITERATIONS,
        weight_decay=config.weight_decay,
        adam_b1=config.b1,
        adam_b2=config.b2,
        adam_weight_decay=0.0 if config.decay_kernels_only else config.weight_decay,
        muon_weight_dimension_numbers=cast("Any", _matrix_axes),  # its type leaves out None
        consistent_rms=_MUON_RMS,
    )


def _matrix_axes(params: Params) -> Params:
    """Axes of each kernel as a matrix from all its inputs to its outputs, and None for other
    parameters."""

    def axes(path: str, leaf: Any) -> optax.contrib.MuonDimensionNumbers | None:
        if not _is_kernel(path) or getattr(leaf, "ndim", 0) < 2:
            return None
        last = leaf.ndim - 1
        return optax.contrib.MuonDimensionNumbers(tuple(range(last)), last)

    return unflatten({path: axes(path, leaf) for path, leaf in flatten(params).items()})


def _are_kernels(params: Params) -> Params:
    return unflatten({path: _is_kernel(path) for path in flatten(params)})


def _is_kernel(path: str) -> bool:
    """Whether a parameter is the matrix of a product or a convolution, by its name."""
    return path.split(".")[-1] in ("kernel", DOWN, UP)


def _are_temporal(params: Params) -> Params:
    return unflatten({path: is_trained(Freeze.TEMPORAL, path) for path in flatten(params)})
