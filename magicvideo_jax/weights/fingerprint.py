"""Fingerprints of encoders: which VAE's latents, or which text encoder's states, a data set holds.

A fingerprint is JSON: the sizes that must match, and the norm of every parameter. Norms and not a
hash, because the same network in half precision must be recognised.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from magicvideo_jax.core.tree import flatten
from magicvideo_jax.core.types import Params
from magicvideo_jax.models.clip_text import TextConfig
from magicvideo_jax.models.vae import VAEConfig, VAEKind

Fingerprint = dict[str, Any]
"""A VAE's has `channels`, `factor`, `scaling`, `kind` and `norms`; a text encoder's `tokens`,
`width` and `norms`."""


def vae_fingerprint(vae: Params, config: VAEConfig) -> Fingerprint:
    """Fingerprint of a VAE's latent space: its encoder. TAESD has no norms, as its latents
    approximate any SD VAE's, and pixels have none."""
    if config.kind is not VAEKind.KL:
        return _numbers(config) | {"kind": config.kind.value}
    return _numbers(config) | {
        "kind": "vae",
        "norms": parameter_norms({name: vae[name] for name in ("encoder", "quant_conv")}),
    }


def parameter_norms(params: Params) -> dict[str, float]:
    """The norm of every parameter by its path. Rather than a hash: half precision is the same
    network."""
    return {
        path: float(f"{float(jnp.linalg.norm(leaf)):.5g}") for path, leaf in flatten(params).items()
    }


def norms_match(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Whether two sets of norms are of the same network, up to rounding."""
    return one.keys() == other.keys() and all(
        np.isclose(one[name], other[name], rtol=2e-2, atol=1e-3) for name in one
    )


def fingerprint_difference(there: Fingerprint, here: Fingerprint) -> str | None:
    """Words for how two VAEs differ; None where latents of one are latents of the other."""
    for name in ("channels", "factor", "scaling"):
        if there.get(name) != here[name]:
            return f"{name} {there.get(name)} and {here[name]}"
    one, other = there.get("norms"), here.get("norms")
    if (
        one is None or other is None
    ):  # TAESD imitates the latents of a VAE whose weights it does not have
        return None
    return None if norms_match(one, other) else "the weights of the encoder"


def _numbers(config: VAEConfig) -> Fingerprint:
    return {"channels": config.latent_channels, "factor": config.factor, "scaling": config.scaling}


def text_fingerprint(text: Params, config: TextConfig) -> Fingerprint:
    """Fingerprint of a text encoder, by which a data set knows whose states it holds."""
    return {"tokens": config.tokens, "width": config.width, "norms": parameter_norms(text)}


def is_same_text_encoder(there: Fingerprint, here: Fingerprint) -> bool:
    """Whether states of one are states of the other."""
    sizes = all(there.get(name) == here[name] for name in ("tokens", "width"))
    return sizes and norms_match(there["norms"], here["norms"])
