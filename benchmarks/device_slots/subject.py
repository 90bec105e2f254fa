"""The model that is measured: `configs/t2v.py:sd15`, or in a rehearsal one as narrow as it can be."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from device_slots.slot import Size
from magicvideo_jax.core.types import Condition
from magicvideo_jax.experiment.config import (
    Component,
    DataConfig,
    Experiment,
    ModelConfig,
    SourceConfig,
)
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.stages.registry import check_fitted
from magicvideo_jax.models.clip_text import TextConfig
from magicvideo_jax.models.temporal import TemporalConfig
from magicvideo_jax.models.unet import UNetConfig, UNetLevelConfig
from magicvideo_jax.models.vae import VAEConfig
from magicvideo_jax.planning.flops import count_flops
from magicvideo_jax.planning.gpu_chips import GPUS
from magicvideo_jax.sampling.keyframes import SampleConfig
from magicvideo_jax.training.loop import TrainConfig
from magicvideo_jax.training.optimizer import OptimConfig

FRAMES, PIXELS = 16, 256
_TINY = ModelConfig(
    unet=UNetConfig(
        levels=(UNetLevelConfig(8, 2),),
        middle_heads=2,
        blocks=1,
        context=8,
        groups=4,
    ),
    vae=VAEConfig(widths=(4, 8), blocks=1, groups=2),
    text=TextConfig(width=8, layers=1, heads=2, hidden=16, tokens=24),
)


def video_experiment(
    size: Size, *, clips: int, sample: SampleConfig | None = None, guidance_channels: int = 0
) -> Experiment:
    """Text to video from nothing, on clips as `prepare` leaves them: latents, and captions as ids."""
    is_tiny = size is Size.TINY
    frames, pixels = (2, 16) if is_tiny else (FRAMES, PIXELS)
    model = _TINY if is_tiny else ModelConfig()
    unet = replace(
        model.unet, temporal=TemporalConfig(frames=frames), guidance_channels=guidance_channels
    )
    experiment = Experiment(
        stage="video",
        init_from="",
        model=replace(model, unet=unet, trained=(Component.UNET,)),
        data=DataConfig(
            sources=(SourceConfig("latents that need not be here"),),
            precompute_examples=0,
            frames=frames,
            size=pixels,
        ),
        train=TrainConfig(steps=100_000, batch_size=clips),
        optim=OptimConfig(lr=1e-5, warmup=1000, ema_decay=0.9999),
        sample=sample or SampleConfig(),
    )
    check_fitted(experiment)
    return experiment


def random_like(shapes: Any) -> Any:
    """Small numbers in their places, the same at every call: they take no part in the time of a program."""
    rng = np.random.default_rng(0)
    some = 0.02 * rng.standard_normal(2**20, np.float32)

    def one(x: jax.ShapeDtypeStruct) -> jax.Array:
        is_number = jnp.issubdtype(x.dtype, jnp.floating)
        values = np.resize(some, x.shape) if is_number else rng.integers(0, 1000, x.shape)
        return jax.device_put(values.astype(x.dtype), getattr(x, "sharding", None))

    return jax.tree.map(one, shapes)


def forward_flops(experiment: Experiment) -> int:
    """FLOPs of the U-Net for one clip: 3.045e12 for 16 frames of 32 x 32 latents. A training step has three times
    as many."""
    networks = Networks(experiment.model)
    text = experiment.model.text
    float32 = jnp.float32
    frames = experiment.data.frames
    z = jax.ShapeDtypeStruct((1, *networks.latent_shape(frames, experiment.data.size)), float32)
    number = jax.ShapeDtypeStruct((1,), float32)
    states = jax.ShapeDtypeStruct((1, text.tokens, text.width), float32)
    given = number if experiment.model.unet.embeds_guidance else None
    condition = Condition(states, number, guidance=given)
    params = networks.shapes((Component.UNET,))
    return count_flops(jax.make_jaxpr(networks.denoise)(params, z, number, condition).jaxpr)


def share_of_peak(flops: float, seconds: float) -> dict[str, float]:
    """TFLOP/s, and their share of the peak of dense bfloat16 products in percent where the device is known."""
    device = jax.devices()[0].device_kind.upper()
    peaks = [chip.rates.flops for chip in GPUS if chip.name.upper() in device and chip.rates]
    rate = flops / seconds
    found = {"tflops_per_second": round(rate / 1e12, 2)}
    return found | {"mfu_percent": round(100 * rate / peaks[0], 2)} if peaks else found


def peak_gib() -> float:
    """Most memory of the device that this process has used, in GiB; 0 where it is not counted."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return round(stats.get("peak_bytes_in_use", 0) / 2**30, 2)
