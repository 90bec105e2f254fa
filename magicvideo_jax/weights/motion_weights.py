"""Motion modules among weights: read from tensors, joined with a U-Net, taken out of one."""

import re
from dataclasses import replace
from typing import Any

import numpy as np

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.models.lone_motion import MotionConfig, is_motion, motion_config_of
from magicvideo_jax.models.motion_module import sinusoidal_positions
from magicvideo_jax.models.temporal import (
    MotionModuleConfig,
    MotionNorm,
    animatediff,
    with_motion_norm,
)
from magicvideo_jax.models.unet import UNetConfig
from magicvideo_jax.weights.components import MOTION, UNET, ComponentWeights, Weights
from magicvideo_jax.weights.motion_json import adapter_json, refuse_sdxl, refused_pia
from magicvideo_jax.weights.param_sources import JoinedParams, PartOfParams, TensorParams
from magicvideo_jax.weights.tables.known_extras import name_of_other_model
from magicvideo_jax.weights.tables.motion_keys import (
    DDP_PREFIX,
    DIFFUSERS_KEYS,
    MODULES,
    ORIGINAL_KEYS,
    OTHER_MOTION,
    POSITIONS,
    MotionKeys,
)
from magicvideo_jax.weights.tables.naming import name_of
from magicvideo_jax.weights.tensors import FLOATS, Stored, Tensors

_HEADS = 8
"""Number of heads of every published motion module; no file of theirs says it."""
_FRAMES = 32
"""Number of positions of files without any."""
_PIA_CHANNELS = 9
_ROUNDING = 1e-2
"""Far above the rounding of positions in bfloat16."""


def motion_of_tensors(
    tensors: Tensors, *, where: str
) -> tuple[ComponentWeights[MotionConfig], MotionKeys, tuple[str, ...]]:
    """Open motion modules in either program's keys: the component, the keys, and notes.

    Other networks of the file, such as the U-Net of a training run, are left out with a note.
    Errors: `UserError` naming the file for other kinds of modules and for what is missing.
    """
    tensors = {key.removeprefix(DDP_PREFIX): tensor for key, tensor in tensors.items()}
    _refuse_others(tensors, where=where)
    motion = {key: tensor for key, tensor in tensors.items() if MODULES in key}
    left = len(tensors) - len(motion)
    notes = (f"{where}: left out the network around the motion modules ({left} tensors)",)
    is_original = any(f".{ORIGINAL_KEYS.root}" in key for key in motion)
    keys = ORIGINAL_KEYS if is_original else DIFFUSERS_KEYS
    frames = check_positions(motion, where=where)
    weights = {k: tensor for k, tensor in motion.items() if not re.fullmatch(POSITIONS.pattern, k)}
    config = _deduced(weights, keys, frames or _FRAMES, where=where)
    source = TensorParams(MOTION.table, weights, where, keys.key_of)
    part = ComponentWeights(MOTION, config, adapter_json(config), source)
    return part, keys, notes if left else ()


def check_positions(tensors: Tensors, *, where: str) -> int | None:
    """Check that positions in a file are sinusoidal: the network here computes them.

    Returns their number; None for a file without any. Errors: `UserError` naming a tensor.
    """
    lengths = set[int]()
    for key, tensor in tensors.items():
        if re.fullmatch(POSITIONS.pattern, key):
            is_right = len(tensor.shape) == 3 and tensor.shape[0] == 1 and tensor.dtype in FLOATS
            if is_right:
                there = tensor.read()[0].astype(np.float32)
                is_right = np.allclose(there, sinusoidal_positions(*there.shape), atol=_ROUNDING)
            if not is_right:
                raise UserError(
                    f"{where}: {key} {tensor.shape} holds no sinusoidal positions; supported: motion "
                    "modules of AnimateDiff v1, v2 and v3"
                )
            lengths.add(tensor.shape[1])
    if len(lengths) > 1:
        raise UserError(f"{where}: positions for {', '.join(map(str, sorted(lengths)))} frames")
    return next(iter(lengths), None)


def with_motion(
    unet: ComponentWeights[UNetConfig] | None, motion: Weights, *, name: str
) -> ComponentWeights[UNetConfig]:
    """A U-Net of image weights with the motion modules of other weights, which need not be alone.

    Errors: `UserError` that begins with `name`, the argument and its value, where there are no
    motion modules or no U-Net, the U-Net has temporal layers of its own, or the sizes differ.
    """
    part = motion_alone(motion, name=name)
    if unet is None:
        raise UserError(f"{name}: motion modules need the U-Net of Stable Diffusion 1.x weights")
    if unet.config.temporal is not None:
        raise UserError(
            f"{name}: the U-Net has temporal layers already: give image weights, or leave it out"
        )
    if unet.config.linear_projection:
        raise UserError(
            f"{name}: motion modules are made for Stable Diffusion 1.x, and the U-Net is that of "
            "2.x: give weights of 1.x"
        )
    there, here = part.config, unet.config
    sizes = tuple(level.width for level in here.levels), here.blocks
    if sizes != (there.widths, there.blocks):
        raise UserError(
            f"{name}: motion modules for levels of {_listed(there.widths)} channels with "
            f"{there.blocks} blocks, and the U-Net has {_listed(sizes[0])} with {here.blocks}: give "
            "those that were made for it"
        )
    config = replace(here, temporal=there.temporal)
    return replace(unet, config=config, source=JoinedParams(unet.source, part.source, is_motion))


def joined(weights: Weights, motion: Weights, *, name: str) -> Weights:
    """Weights whose U-Net has the motion modules of others, and their noise schedule. Errors: those
    of `with_motion`."""
    unet = with_motion(weights.parts.get(UNET.folder), motion, name=name)
    return replace(
        weights,
        parts={**weights.parts, UNET.folder: unet},
        noise=motion.noise,
        noise_json=motion.noise_json,
        notes=(*weights.notes, *motion.notes),
    )


def renormed(weights: Weights, norm: MotionNorm, *, name: str) -> Weights:
    """Weights whose motion modules norm by another convention (`AUTO`: unchanged). Errors:
    `UserError` that begins with `name` where there are none."""
    if norm is MotionNorm.AUTO:
        return weights
    parts = {kind: part for kind, part in weights.parts.items() if has_motion(part)}
    if not parts:
        raise UserError(f"{name}: there are no motion modules: leave it out, or give --motion")
    changed = {
        kind: replace(
            part,
            config=replace(part.config, temporal=with_motion_norm(part.config.temporal, norm)),
        )
        for kind, part in parts.items()
    }
    return replace(weights, parts={**weights.parts, **changed})


def motion_alone(weights: Weights, *, name: str) -> ComponentWeights[MotionConfig]:
    """The motion modules of weights, taken out of their U-Net if they are in one.

    Errors: `UserError` that begins with `name` where there are none.
    """
    if MOTION.folder in weights.parts:
        return weights.parts[MOTION.folder]
    unet = weights.parts.get(UNET.folder)
    if unet is None or not has_motion(unet):
        raise UserError(
            f"{name}: holds no motion modules: give a motion module file of AnimateDiff, the folder of "
            "a MotionAdapter, or a video model that was made with either"
        )
    config = motion_config_of(unet.config)
    source = PartOfParams(unet.source, flatten(unet.network().shapes))
    return ComponentWeights(MOTION, config, adapter_json(config), source)


def has_motion(part: ComponentWeights[Any]) -> bool:
    """Whether a network has motion modules."""
    temporal = getattr(part.config, "temporal", None)
    return getattr(temporal, "motion", None) is not None


def diffusers_positions(part: ComponentWeights[Any]) -> dict[str, np.ndarray]:
    """Positions that diffusers stores beside the motion modules of a network, by their keys."""
    return positions_of(part, DIFFUSERS_KEYS)


def positions_of(part: ComponentWeights[Any], keys: MotionKeys) -> dict[str, np.ndarray]:
    """Positions that a program stores beside the motion modules of a network, by its keys."""
    shapes = flatten(part.network().shapes)
    names = {name_of(part.kind.table, path, x.ndim).key: x for path, x in shapes.items()}
    frames = part.config.temporal.frames
    return {
        key: sinusoidal_positions(frames, names[norm].shape[0]).astype(np.float32)[None]
        for key, norm in keys.position_keys(names).items()
    }


def _refuse_others(tensors: Tensors, *, where: str) -> None:
    for pattern, words in OTHER_MOTION:
        if any(re.fullmatch(pattern, key) for key in tensors):
            raise UserError(f"{where}: holds {words}")
    if "conv_in.weight" in tensors and tensors["conv_in.weight"].shape[1:2] == (_PIA_CHANNELS,):
        raise UserError(f"{where}: holds {refused_pia()}")
    if other := name_of_other_model(key for key in tensors if MODULES not in key):
        raise UserError(
            f"{where}: holds {other} beside motion modules: give the motion modules alone"
        )


def _deduced(tensors: Tensors, keys: MotionKeys, frames: int, *, where: str) -> MotionConfig:
    """The configuration that the shapes of motion modules tell."""
    norm = f"{MODULES}0.{keys.root}norm.weight"
    levels = _count(tensors, r"down_blocks\.(\d+)\..*")
    blocks = _count(tensors, rf"down_blocks\.0\.{re.escape(MODULES)}(\d+)\..*")
    firsts: list[Stored | None] = [tensors.get(f"down_blocks.{i}.{norm}") for i in range(levels)]
    if not levels or not blocks or any(x is None or len(x.shape) != 1 for x in firsts):
        raise UserError(
            f"{where}: not whole motion modules of AnimateDiff ({keys.words}, {len(tensors)} tensors): "
            f"no down_blocks.{firsts.index(None) if None in firsts else 0}.{norm} of one axis"
        )
    widths = tuple(x.shape[0] for x in firsts if x is not None)
    refuse_sdxl(widths, where=where)
    if any(width % _HEADS or width < 1 for width in widths):
        raise UserError(f"{where}: widths {_listed(widths)}; motion modules have {_HEADS} heads")
    motion = MotionModuleConfig(heads=_HEADS, in_middle=any("mid_block." in key for key in tensors))
    temporal = with_motion_norm(animatediff(frames=frames, motion=motion), keys.norm)
    return MotionConfig(widths=widths, blocks=blocks, temporal=temporal)


def _count(tensors: Tensors, pattern: str) -> int:
    """One more than the largest number in the keys that match; 0 if none does."""
    found = (re.fullmatch(pattern, key) for key in tensors)
    return max((int(match.group(1)) + 1 for match in found if match), default=0)


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))
