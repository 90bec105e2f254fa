"""A pipeline's folder as `convert` writes it: Orbax checkpoints beside the configurations of
diffusers."""

from dataclasses import replace
from pathlib import Path

from magicvideo_jax.weights.components import Weights
from magicvideo_jax.weights.folders import FORMAT, JAX, index_of, open_jax_part, open_pipeline
from magicvideo_jax.weights.formats.weight_format import OpenOptions


class JaxFolder:
    """A converted Stable Diffusion, perhaps with the temporal layers of a video model."""

    name = "a folder that `convert` wrote"

    def matches(self, path: Path) -> bool:
        """Whether `model_index.json` bears our mark."""
        return index_of(path).get(FORMAT) == JAX

    def open(self, path: Path, options: OpenOptions) -> Weights:
        """Open the three networks, the schedule and the tokenizer."""
        why = "a folder that says these itself"
        options.refuse_all_but("tokenizer", path=path, why=why)
        weights = open_pipeline(path, options, lambda kind: (open_jax_part(kind, path), ()))
        return replace(weights, is_ours=True)
