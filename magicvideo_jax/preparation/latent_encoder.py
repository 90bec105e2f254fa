"""The VAE of given weights as a function from clips to the latents that a data set stores."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float16, UInt8

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.pixels import to_float
from magicvideo_jax.core.types import Params
from magicvideo_jax.experiment.config import Component
from magicvideo_jax.experiment.opening.initial_weights import check_halves, initial_weights
from magicvideo_jax.runtime.compilation import jit
from magicvideo_jax.weights.fingerprint import Fingerprint, vae_fingerprint


@dataclass(frozen=True)
class LatentEncoder:
    """A VAE's encoder with its weights; built by `open_latent_encoder`."""

    moments: Callable[[Params, Array], tuple[Array, Array]]
    """Pixels in [-1, 1] to mean and log-variance, unscaled."""
    params: Params
    identity: Fingerprint

    def shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Shape (t h w 2c) of a clip's stored latents."""
        factor = self.identity["factor"]
        return frames, height // factor, width // factor, 2 * self.identity["channels"]

    def batches(
        self, at_once: int
    ) -> Callable[[UInt8[np.ndarray, "b t h w 3"]], Float16[np.ndarray, "b t h2 w2 c2"]]:
        """A function from up to `at_once` clips to their mean and log-variance, on the last axis.

        It runs on this host's own devices. Fewer clips are padded, so that one program serves all
        batches and gives one result.
        """
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
    """Open the VAE of weights in any known form, of a run, `embedded`, or TAESD.

    Errors: `UserError` naming `argument`.
    """
    initial = initial_weights(weights, argument=argument)
    if Component.VAE not in initial.parts:
        raise UserError(f"{argument}={weights}: no VAE: give weights that hold one, or `embedded`")
    check_halves(initial, ("encoder",), f"{argument}={weights}")
    model, networks, params = initial.opened(Component.VAE)
    fingerprint = vae_fingerprint(params[Component.VAE.value], model.vae)
    return LatentEncoder(networks.moments, params, fingerprint)
