"""Keys of motion modules: AnimateDiff's own, and those of diffusers' MotionAdapter.

    {block}.motion_modules.{n}.temporal_transformer.transformer_blocks.0.attention_blocks.0.to_q.weight
    {block}.motion_modules.{n}.transformer_blocks.0.attn1.to_q.weight

(guoyww/AnimateDiff, models/motion_module.py; diffusers 0.42.1, loaders/single_file_utils.py.)
`UNET_TABLE` has the second form.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from magicvideo_jax.diffusion.known_schedules import (
    ANIMATEDIFF_IN_DIFFUSERS_NOISE,
    ANIMATEDIFF_NOISE,
)
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig
from magicvideo_jax.models.temporal import MotionNorm
from magicvideo_jax.weights.tables.known_extras import KnownExtra

MODULES = "motion_modules."
"""Part of every key of a motion module, in both forms."""
DDP_PREFIX = "module."
"""Prefix of all keys of a network that torch's DistributedDataParallel wrapped while it trained."""

_MODULE = r"(?P<module>.*\bmotion_modules\.\d+\.)(?P<inside>.*)"


class MotionKeys(NamedTuple):
    """Names of one program, and how that program computes and samples."""

    words: str
    root: str
    """Stands between the number of a module and its layers."""
    renamed: tuple[tuple[str, str], ...]
    """Layers with another name than in diffusers: patterns in diffusers' keys, and their names."""
    positions: tuple[str, ...]
    """Keys, after those of a module, of the sinusoidal positions: constants, and no weights."""
    norm: MotionNorm
    noise: NoiseScheduleConfig

    def key_of(self, key: str) -> str:
        """The name of a weight of a motion module, given by its key in diffusers."""
        found = re.fullmatch(_MODULE, key)
        if found is None:
            raise LookupError(f"{key} is no key of a motion module")
        inside = found["inside"]
        for pattern, name in self.renamed:
            inside = re.sub(pattern, name, inside)
        return f"{found['module']}{self.root}{inside}"

    def position_keys(self, keys: Iterable[str]) -> dict[str, str]:
        """Keys of the positions that go with weights, given by their keys in diffusers; each with
        a key in diffusers whose width they have."""
        modules = [found["module"] for key in keys if (found := re.fullmatch(_MODULE, key))]
        return {
            f"{module}{self.root}{end}": f"{module}norm.weight"
            for module in dict.fromkeys(modules)
            for end in self.positions
        }


ORIGINAL_KEYS = MotionKeys(
    words="AnimateDiff's own names",
    root="temporal_transformer.",
    renamed=(
        (r"\battn1\b", "attention_blocks.0"),
        (r"\battn2\b", "attention_blocks.1"),
        (r"\bnorm1\b", "norms.0"),
        (r"\bnorm2\b", "norms.1"),
        (r"\bnorm3\b", "ff_norm"),
    ),
    positions=(
        "transformer_blocks.0.attention_blocks.0.pos_encoder.pe",
        "transformer_blocks.0.attention_blocks.1.pos_encoder.pe",
    ),
    norm=MotionNorm.ORIGINAL,
    noise=ANIMATEDIFF_NOISE,
)
DIFFUSERS_KEYS = MotionKeys(
    words="diffusers' names",
    root="",
    renamed=(),
    positions=("transformer_blocks.0.pos_embed.pe",),
    norm=MotionNorm.DIFFUSERS,
    noise=ANIMATEDIFF_IN_DIFFUSERS_NOISE,
)

POSITIONS = KnownExtra(r".*\.(pos_encoder|pos_embed)\.pe")
"""Sinusoidal positions, which are computed."""

OTHER_MOTION = (
    (
        r".*controlnet_cond_embedding\..*",
        "SparseCtrl of AnimateDiff, a ControlNet over frames, which is not supported: give the motion "
        "modules alone (v3_sd15_mm.ckpt)",
    ),
    (
        r".*lora.*",
        "a MotionLoRA, which is added to motion modules and is none: give it as --lora=FILE:SCALE",
    ),
)
"""Keys by which a file with other things at motion modules is known, and words for it."""
