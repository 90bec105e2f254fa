"""The VAE of some weights as a function from clips to what a data set keeps of them, and how to know it again."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float16, UInt8

from magicvideo_jax.core.compilation import jit
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.protocols import Params
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.experiment.config import Component
from magicvideo_jax.experiment.initial import initial_weights
from magicvideo_jax.models.autoencoder import CERTAIN
from magicvideo_jax.models.bind import bind
from magicvideo_jax.models.taesd import TAESDEncoder
from magicvideo_jax.models.vae import VAEConfig, VAEKind
from magicvideo_jax.parallel.rules import on_this_host
from magicvideo_jax.training.objectives import unit
from magicvideo_jax.weights.taesd import is_taesd, open_taesd

Identity = dict[str, Any]
"""What tells whose latents a data set holds: `channels`, `factor`, `scaling`, `kind`, and the norms of the encoder."""


@dataclass(frozen=True)
class Encoder:
    """Built by `open_encoder`."""

    moments: Callable[[Params, Array], tuple[Array, Array]]
    """Pixels in [-1, 1] to mean and log-variance, unscaled."""
    params: Params
    identity: Identity

    def shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(t h w 2c) of what is kept of a clip."""
        factor = self.identity["factor"]
        return frames, height // factor, width // factor, 2 * self.identity["channels"]

    def batches(self, at_once: int) -> Callable[[UInt8[np.ndarray, "b t h w 3"]], Float16[np.ndarray, "b t h2 w2 c2"]]:
        """Up to `at_once` clips to mean and log-variance, one behind the other on the last axis, on this host's own
        devices. Fewer clips are filled up, so that there is one program and one result."""
        devices = Mesh(np.array(jax.local_devices()), ("data",))
        at_once = -(-at_once // devices.size) * devices.size
        params = jax.device_put(self.params, NamedSharding(devices, PartitionSpec()))

        @jit
        def encode(params: Params, pixels: jax.Array) -> jax.Array:
            return jnp.concatenate(self.moments(params, unit(pixels)), axis=-1).astype(jnp.float16)

        def encoded(pixels: UInt8[np.ndarray, "b t h w 3"]) -> Float16[np.ndarray, "b t h2 w2 c2"]:
            filled = np.concatenate([pixels, np.repeat(pixels[-1:], at_once - len(pixels), axis=0)])
            placed = jax.device_put(filled, NamedSharding(devices, PartitionSpec("data")))
            return np.asarray(encode(params, placed))[: len(pixels)]

        return encoded


def open_encoder(weights: str, *, argument: str) -> Encoder:
    """Of Stable Diffusion weights in any form, a run, `embedded`, or TAESD's files. Errors name `argument`."""
    if weights and is_taesd(Path(weights)):
        return _taesd(weights, argument)
    initial = initial_weights(weights, argument=argument)
    if Component.VAE not in initial.parts:
        raise UserError(f"{argument}={weights}: no VAE: give Stable Diffusion weights, a work folder, or `embedded`")
    model, networks, params = initial.opened(Component.VAE)
    return Encoder(networks.moments, params, identity_of(params[Component.VAE.value], model.vae))


def _taesd(weights: str, argument: str) -> Encoder:
    """Its latents are Stable Diffusion's, already scaled: they are kept as its VAE would give them."""
    source, usual = open_taesd(Path(weights)), VAEConfig(kind=VAEKind.TAESD)
    if "encoder" not in source.halves:
        raise UserError(f"{argument}={weights}: TAESD's decoder alone: add taesd_encoder.safetensors")
    network = bind(lambda keys: TAESDEncoder(keys=keys))
    shapes = source.shapes()
    params = source.load(shapes, shardings=on_this_host(shapes))["encoder"]

    def moments(params: Params, x: Array) -> tuple[Array, Array]:
        mean = network.apply(params, (x + 1) / 2) / usual.scaling
        return mean, jnp.full_like(mean, CERTAIN)

    return Encoder(moments, params, identity_of(params, usual))


def identity_of(vae: Params, config: VAEConfig) -> Identity:
    """Of a VAE: its encoder is what latents come from. TAESD's are as good as those that it imitates."""
    if config.kind is VAEKind.TAESD:
        return _numbers(config) | {"kind": "taesd"}
    return _numbers(config) | {
        "kind": "vae",
        "norms": norms_of({name: vae[name] for name in ("encoder", "quant_conv")}),
    }


def norms_of(params: Params) -> dict[str, float]:
    """The norm of every parameter by its path. Rather than a hash: half precision is the same network."""
    return {path: float(f"{float(jnp.linalg.norm(leaf)):.5g}") for path, leaf in flatten(params).items()}


def same_norms(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Whether they are of the same network, up to rounding."""
    return one.keys() == other.keys() and all(np.isclose(one[name], other[name], rtol=2e-2, atol=1e-3) for name in one)


def difference(there: Identity, here: Identity) -> str | None:
    """In what two identities differ, in words; None where latents of one are latents of the other."""
    for name in ("channels", "factor", "scaling"):
        if there.get(name) != here[name]:
            return f"{name} {there.get(name)} and {here[name]}"
    one, other = there.get("norms"), here.get("norms")
    if one is None or other is None:  # TAESD imitates the latents of a VAE whose weights it does not have
        return None
    return None if same_norms(one, other) else "the weights of the encoder"


def _numbers(config: VAEConfig) -> Identity:
    return {"channels": config.latent_channels, "factor": config.factor, "scaling": config.scaling}
