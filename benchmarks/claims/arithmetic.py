"""The claim of 64 times less arithmetic than VDM, by counting products of traced networks; no weights are made.

Numbers are multiply-accumulate operations of one pass for one clip, without guidance: half of the FLOPs of
`planning/flops.py`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import jax
import jax.numpy as jnp

from benchmarks.claims.vdm_unet import VDM_LARGE, VDM_SMALL, VDMConfig, vdm_unet
from magicvideo_jax.models.autoencoder import autoencoder
from magicvideo_jax.models.bind import bind
from magicvideo_jax.models.temporal import TemporalConfig
from magicvideo_jax.models.unet import SD1, UNetConfig, VideoUNet
from magicvideo_jax.models.vae import VAEConfig
from magicvideo_jax.planning.flops import count_flops

TOKENS = 77


class Trace(Protocol):
    """A network as a jaxpr, for a clip of this shape."""

    def __call__(self, *shape: int) -> object: ...


@dataclass(frozen=True)
class Counted:
    """A network and the clip that it is given."""

    name: str
    network: Trace
    shape: tuple[int, int, int, int]
    """(t h w c) of what it denoises or decodes."""

    @property
    def tmac(self) -> float:
        """Multiply-accumulate operations of a pass, in 10^12."""
        return count_flops(self.network(*self.shape)) / 2e12


@dataclass(frozen=True)
class Ratio:
    """A reading of the claim: how many times the arithmetic of one network is that of another."""

    sentence: str
    dear: str
    cheap: str


def video_unet(config: UNetConfig, *shape: int) -> object:
    """The U-Net of this package, traced."""
    network = bind(lambda keys: VideoUNet(config, keys=keys))
    inputs = (_array(1, *shape), _array(1), _array(1, TOKENS, config.context), _array(1))
    return jax.make_jaxpr(network.apply)(network.shapes, *inputs)


def vdm(config: VDMConfig, *shape: int) -> object:
    """VDM's U-Net, traced."""
    return jax.make_jaxpr(partial(vdm_unet, config=config))(_array(*shape))


def vae_decoder(config: VAEConfig, *shape: int) -> object:
    """The decoder of a VAE, traced."""
    network = bind(lambda keys: autoencoder(config, keys=keys))
    decode = network.method(lambda vae, z: vae.decode(z))
    return jax.make_jaxpr(decode)(network.shapes, _array(1, *shape))


def _array(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _without_attention(config: UNetConfig) -> UNetConfig:
    """A U-Net with attention at its last level and in the middle alone, where little is left of a frame."""
    *levels, last = config.levels
    few = (*(replace(level, heads=0) for level in levels), replace(last, heads=config.middle_heads))
    return replace(config, levels=few)


MAGICVIDEO = replace(SD1, temporal=TemporalConfig(frames=16))
LATENTS, PIXELS, LARGE_PIXELS = (16, 32, 32, 4), (16, 64, 64, 3), (16, 256, 256, 3)
OURS = partial(video_unet, MAGICVIDEO)
CONVOLUTIONS = partial(video_unet, _without_attention(MAGICVIDEO))

NETWORKS = (
    Counted("VDM, as published", partial(vdm, VDM_LARGE), PIXELS),
    Counted("VDM, small", partial(vdm, VDM_SMALL), PIXELS),
    Counted(
        "VDM at 256 pixels, attention at 32",
        partial(vdm, replace(VDM_LARGE, attention_at=(32,))),
        LARGE_PIXELS,
    ),
    Counted(
        "VDM at 256 pixels, attention at 128, 64, 32",
        partial(vdm, replace(VDM_LARGE, attention_at=(128, 64, 32))),
        LARGE_PIXELS,
    ),
    Counted(
        "VDM on latents, attention at 16, 8, 4",
        partial(vdm, replace(VDM_LARGE, attention_at=(16, 8, 4))),
        LATENTS,
    ),
    Counted("MagicVideo", OURS, LATENTS),
    Counted("MagicVideo at 256 pixels", OURS, (16, 256, 256, 4)),
    Counted("MagicVideo, attention at the last level alone", CONVOLUTIONS, LATENTS),
    Counted("the same at 256 pixels", CONVOLUTIONS, (16, 256, 256, 4)),
    Counted("Stable Diffusion's decoder, once a clip", partial(vae_decoder, VAEConfig()), LATENTS),
)

RATIOS = (
    Ratio(
        "one network of convolutions, on 256 x 256 pixels and on 32 x 32 latents: the ratio of pixels",
        "the same at 256 pixels",
        "MagicVideo, attention at the last level alone",
    ),
    Ratio(
        "one network with attention at the same levels: its products grow with the square of pixels",
        "MagicVideo at 256 pixels",
        "MagicVideo",
    ),
    Ratio(
        "VDM's network, on 256 x 256 pixels and on latents, attention at few levels",
        "VDM at 256 pixels, attention at 32",
        "VDM on latents, attention at 16, 8, 4",
    ),
    Ratio(
        "the same, attention at the same levels",
        "VDM at 256 pixels, attention at 128, 64, 32",
        "VDM on latents, attention at 16, 8, 4",
    ),
    Ratio(
        "VDM's network for 256 x 256 pixels and MagicVideo's for as many, attention at few levels",
        "VDM at 256 pixels, attention at 32",
        "MagicVideo",
    ),
    Ratio(
        "the same, attention at the same levels",
        "VDM at 256 pixels, attention at 128, 64, 32",
        "MagicVideo",
    ),
    Ratio(
        "VDM as published, 64 x 64 pixels, and MagicVideo, 256 x 256",
        "VDM, as published",
        "MagicVideo",
    ),
)


def count_all() -> dict[str, float]:
    """The arithmetic of every network in TMAC, by name."""
    return {counted.name: counted.tmac for counted in NETWORKS}


def tables(tmac: Mapping[str, float]) -> Iterator[str]:
    """Lines of both tables in markdown."""
    yield "| network | input | TMAC |"
    yield "|---|---|---|"
    for one in NETWORKS:
        yield f"| {one.name} | {' x '.join(map(str, one.shape))} | {tmac[one.name]:.3f} |"
    yield ""
    yield "| reading | TMAC | ratio |"
    yield "|---|---|---|"
    for ratio in RATIOS:
        dear, cheap = tmac[ratio.dear], tmac[ratio.cheap]
        yield f"| {ratio.sentence} | {dear:.3f} / {cheap:.3f} | **{dear / cheap:.3g}** |"
