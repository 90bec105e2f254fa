"""How the devices that share a clip divide the work of sampling it."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Array

from magicvideo_jax.core.checks import FieldError, at_least, refused
from magicvideo_jax.core.types import Denoise
from magicvideo_jax.parallel.constraints import FRAMES_AXIS
from magicvideo_jax.parallel.mesh import MeshConfig


class SplitKind(Enum):
    """What each of the devices that share a clip computes."""

    NONE = "none"
    """Clips of its own: devices share none, and exchange nothing."""
    LATENTS = "latents"
    """The network on an overlapping part of the clip (Latent Parallelism, `latent_parallel.py`): an approximation, with
    one small all-reduce a step."""
    FRAMES = "frames"
    """Some frames of every layer: the same clips up to rounding, with two all-to-alls for each layer over frames."""


@jax.tree_util.register_static
@dataclass(frozen=True)
class SplitConfig:
    """How devices share clips that are sampled; `mesh.frames` of them share each."""

    by: SplitKind = SplitKind.NONE
    parts: int = 0
    """Parts of a clip, one for each device that shares it; 0: as many as `mesh.frames`. On a device of its own, parts
    are evaluated one after the other, which shows what a split would do to clips."""
    axes: str = "t"
    """Axes of the latents of which one is split at each step, in turn: t (frames), h and w. The paper has thw."""
    overlap: float = 0.5
    """Latents that a part has beside its own share of the clip, as a fraction of that share; 0: none."""

    def __post_init__(self) -> None:
        at_least(0, self, "parts", "overlap")
        if not self.axes or set(self.axes) - set("thw") or len(set(self.axes)) < len(self.axes):
            raise refused(self, "axes", "give letters of thw, each once: frames, height, width")
        if self.parts > 1 and self.overlap > self.parts - 1:
            raise refused(
                self,
                "overlap",
                f"give at most {self.parts - 1}, with which each of {self.parts} parts is the whole clip",
            )


NO_SPLIT = SplitConfig()


def devices_per_clip(mesh: Mesh | AbstractMesh | None) -> int:
    """Number of devices that share each clip on a mesh; None is one device."""
    return 1 if mesh is None else mesh.shape[FRAMES_AXIS]


def split_on(config: SplitConfig, mesh: Mesh | AbstractMesh | None) -> SplitConfig:
    """The split with its number of parts on a mesh; none where a clip has one part.

    Errors: `FieldError` for another number of parts than the devices that share a clip.
    """
    ways = devices_per_clip(mesh)
    if config.by is SplitKind.NONE:
        return NO_SPLIT
    if ways > 1 and config.parts not in (0, ways):
        raise FieldError(
            f"parts={config.parts}: {ways} devices share each clip (mesh.frames={ways}): give 0, or {ways}"
        )
    parts = ways if ways > 1 else config.parts
    if parts <= 1 or (ways == 1 and config.by is SplitKind.FRAMES):
        return NO_SPLIT
    return SplitConfig(config.by, parts, config.axes, config.overlap)


def mesh_of(config: SplitConfig, devices: int) -> MeshConfig:
    """Mesh on which clips are sampled by so many devices: groups of `parts` share each clip.

    Errors: `FieldError` for parts that do not divide several devices.
    """
    if config.by is SplitKind.NONE or devices == 1:
        return MeshConfig()
    parts = config.parts or devices
    if devices % parts:
        raise refused(
            config, "parts", f"give a number that divides the {devices} devices, or 0 for all"
        )
    return MeshConfig(frames=parts)


def one_pass_at_a_time(denoise: Denoise, clips: int) -> Denoise:
    """Denoiser that evaluates a batch of several passes over `clips` clips pass by pass.

    Layers within frames merge the axes (b t): with more than one example on devices that share its
    frames, XLA would gather the frames.
    """

    def wrapped(z: Array, time: Array, condition: Any, /) -> Array:
        if len(z) == clips:
            return denoise(z, time, condition)
        by_pass = jax.tree.map(
            lambda x: jnp.moveaxis(x.reshape(clips, -1, *x.shape[1:]), 1, 0), (z, time, condition)
        )
        outputs = jax.lax.map(lambda one: denoise(*one), by_pass)
        return jnp.moveaxis(outputs, 0, 1).reshape(len(z), *outputs.shape[2:])

    return wrapped
