"""The VAE of some weights as a function from clips to what a data set keeps of them, and how to know it again."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float16, UInt8

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.pixels import to_float
from magicvideo_jax.core.types import Params
from magicvideo_jax.experiment.config import Component
from magicvideo_jax.experiment.initial_weights import initial_weights
from magicvideo_jax.models.autoencoder import DETERMINISTIC_LOG_VARIANCE
from magicvideo_jax.models.bind import bind
from magicvideo_jax.models.taesd import TAESDEncoder
from magicvideo_jax.models.vae import VAEConfig, VAEKind
from magicvideo_jax.parallel.shardings import on_local_device
from magicvideo_jax.runtime.compilation import jit
from magicvideo_jax.weights.fingerprint import Fingerprint, vae_fingerprint
from magicvideo_jax.weights.taesd_files import is_taesd, open_taesd


@dataclass(frozen=True)
class LatentEncoder:
    """Built by `open_latent_encoder`."""

    moments: Callable[[Params, Array], tuple[Array, Array]]
    """Pixels in [-1, 1] to mean and log-variance, unscaled."""
    params: Params
    identity: Fingerprint

    def shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(t h w 2c) of what is kept of a clip."""
        factor = self.identity["factor"]
        return frames, height // factor, width // factor, 2 * self.identity["channels"]

    def batches(
        self, at_once: int
    ) -> Callable[[UInt8[np.ndarray, "b t h w 3"]], Float16[np.ndarray, "b t h2 w2 c2"]]:
        """Up to `at_once` clips to mean and log-variance, one behind the other on the last axis, on this host's own
        devices. Fewer clips are filled up, so that there is one program and one result."""
        devices = Mesh(np.array(jax.local_devices()), ("data",))
        at_once = -(-at_once // devices.size) * devices.size
        params = jax.device_put(self.params, NamedSharding(devices, PartitionSpec()))

        @jit
        def encode(params: Params, pixels: jax.Array) -> jax.Array:
            return jnp.concatenate(self.moments(params, to_float(pixels)), axis=-1).astype(
                jnp.float16
            )

        def encoded(pixels: UInt8[np.ndarray, "b t h w 3"]) -> Float16[np.ndarray, "b t h2 w2 c2"]:
            filled = np.concatenate([pixels, np.repeat(pixels[-1:], at_once - len(pixels), axis=0)])
            placed = jax.device_put(filled, NamedSharding(devices, PartitionSpec("data")))
            return np.asarray(encode(params, placed))[: len(pixels)]

        return encoded


def open_latent_encoder(weights: str, *, argument: str) -> LatentEncoder:
    """Of Stable Diffusion weights in any form, a run, `embedded`, or TAESD's files. Errors name `argument`."""
    if weights and is_taesd(Path(weights)):
        return _taesd(weights, argument)
    initial = initial_weights(weights, argument=argument)
    if Component.VAE not in initial.parts:
        raise UserError(
            f"{argument}={weights}: no VAE: give Stable Diffusion weights, a work folder, or `embedded`"
        )
    model, networks, params = initial.opened(Component.VAE)
    return LatentEncoder(
        networks.moments, params, vae_fingerprint(params[Component.VAE.value], model.vae)
    )


def _taesd(weights: str, argument: str) -> LatentEncoder:
    """Its latents are Stable Diffusion's, already scaled: they are kept as its VAE would give them."""
    source, usual = open_taesd(Path(weights)), VAEConfig(kind=VAEKind.TAESD)
    if "encoder" not in source.halves:
        raise UserError(
            f"{argument}={weights}: TAESD's decoder alone: add taesd_encoder.safetensors"
        )
    network = bind(lambda keys: TAESDEncoder(keys=keys))
    shapes = source.shapes()
    params = source.load(shapes, shardings=on_local_device(shapes))["encoder"]

    def moments(params: Params, x: Array) -> tuple[Array, Array]:
        mean = network.apply(params, (x + 1) / 2) / usual.scaling
        return mean, jnp.full_like(mean, DETERMINISTIC_LOG_VARIANCE)

    return LatentEncoder(moments, params, vae_fingerprint(params, usual))
