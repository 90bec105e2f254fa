"""A VideoVAE in the place of a model's VAE: the same encoder, hence the same latents, and another decoder."""

from dataclasses import replace

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.experiment.config import Component, Experiment
from magicvideo_jax.experiment.initial_weights import InitialWeights, initial_weights
from magicvideo_jax.weights.fingerprint import Fingerprint, fingerprint_difference, vae_fingerprint


def initial_of(experiment: Experiment) -> InitialWeights:
    """The first weights that a config names: those of `init_from`, with the VAE of `vae_from`."""
    return with_vae_of(
        initial_weights(experiment.init_from), experiment.vae_from, argument="config.vae_from"
    )


def with_vae_of(initial: InitialWeights, weights: str, *, argument: str) -> InitialWeights:
    """First weights with the VAE of other `weights` (a work folder, a folder with `vae_temporal/`, `embedded`, or any
    that `convert` reads; empty: unchanged).

    Errors: `UserError` naming `argument` where there is no VAE, or one with latents of its own.
    """
    if not weights:
        return initial
    other = initial_weights(weights, argument=argument)
    if Component.VAE not in other.parts:
        raise UserError(
            f"{argument}={weights}: no VAE: give a work folder or weights that hold one"
        )
    if Component.VAE in initial.parts:
        differs = fingerprint_difference(_identity(other), _identity(initial))
        if differs is not None:
            raise UserError(
                f"{argument}={weights} decodes latents of another VAE ({differs}): give one made of this model's, or "
                "leave it empty"
            )
    return replace(initial, parts={**initial.parts, Component.VAE: other.parts[Component.VAE]})


def _identity(initial: InitialWeights) -> Fingerprint:
    model, _, params = initial.opened(Component.VAE)
    return vae_fingerprint(params[Component.VAE.value], model.vae)
