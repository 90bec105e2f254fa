"""A pipeline's folder in diffusers' layout: `model_index.json`, and a folder for each part."""

from pathlib import Path
from typing import Any

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.weights.components import (
    PIPELINE_PARTS,
    ComponentSpec,
    ComponentWeights,
    Weights,
)
from magicvideo_jax.weights.folders import FORMAT, INDEX, index_of, open_pipeline, open_torch_part
from magicvideo_jax.weights.formats.weight_format import OpenOptions
from magicvideo_jax.weights.tensor_files import variants_in


class DiffusersFolder:
    """Stable Diffusion 1.x or 2.x, as diffusers saves and publishes it."""

    name = "a Stable Diffusion folder in diffusers' layout"

    def matches(self, path: Path) -> bool:
        """Whether there is a `model_index.json` that is not ours."""
        return (path / INDEX).is_file() and FORMAT not in index_of(path)

    def open(self, path: Path, options: OpenOptions) -> Weights:
        """Open the three networks, the schedule and the tokenizer; what a video network adds,
        too."""
        why = "a folder that says these itself"
        options.refuse_all_but("tokenizer", "variant", path=path, why=why)
        if options.variant:
            _check_variant(path, options.variant)

        def part(kind: ComponentSpec[Any]) -> tuple[ComponentWeights[Any], tuple[str, ...]]:
            added = path / kind.temporal_folder
            folder, variant = path / kind.folder, options.variant
            return open_torch_part(kind, folder, temporal=added, variant=variant)

        return open_pipeline(path, options, part)


def _check_variant(path: Path, variant: str) -> None:
    there = {
        name
        for kind in PIPELINE_PARTS
        for name in variants_in(path / kind.folder, kind.stem, kind.older)
    }
    if variant not in there:
        raise UserError(
            f"--variant={variant}: {path} has {', '.join(sorted(there)) or 'no variants'}; "
            "leave it out for the plain files"
        )
