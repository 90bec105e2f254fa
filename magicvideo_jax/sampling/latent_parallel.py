"""Latent Parallelism (Wu et al. 2512.07350): the devices that share a clip each evaluate the network on
an overlapping part of its latents, and one all-reduce merges what it predicts.

    e = sum_k w_k e_k,   sum_k w_k = 1,   e_k the prediction for part k                                       (1)
    core_k = [k n // K, (k + 1) n // K)           of the n units of an axis, for K parts                      (2)
    part_k = core_k and r ceil(n / K) units of its neighbours, all parts of one length                        (3)
    w_k ~ 1 in the core, (j + 1) / (front + 1) before it, (l - j) / (rear + 1) after it, j = 0 .. l-1         (4)

Every device has the whole latents, so that nothing is exchanged beside the predictions, and the
sampler's update is the same everywhere. The axis that is split may change from step to step, in turn.
A frame of a directed network depends on no later one: the overlap then lies before the core, without weight.

One length for all parts, the ends of eq. 4 and merging after guidance are choices of this file.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Array, Float, Float32, Int

from magicvideo_jax.core.checks import FieldError
from magicvideo_jax.core.types import Condition, Denoise
from magicvideo_jax.parallel.constraints import FRAMES_AXIS
from magicvideo_jax.sampling.clip_split import SplitConfig, SplitKind, devices_per_clip, split_on

_AXES = {"t": 1, "h": 2, "w": 3}
_NAMES = {"t": "frames", "h": "rows", "w": "columns"}


@dataclass(frozen=True, eq=False)
class Spans:
    """The parts of one axis."""

    starts: Int[np.ndarray, "k"]
    length: int
    weights: Float32[np.ndarray, "k l"]
    """Share of each part's predictions; those of a position sum to 1."""


def spans(size: int, parts: int, overlap: float, *, unit: int = 1, in_front: bool = False) -> Spans:
    """Overlapping parts of an axis of `size` latents (eq. 2 to 4), which begin at multiples of `unit`.

    `overlap` is r, from 0 to K - 1, with which every part is the whole axis. With `in_front` all of
    it lies before a part's core, where the part has no weight.
    """
    n = size // unit
    cores = [(k * n // parts, (k + 1) * n // parts) for k in range(parts)]
    extra = math.ceil(overlap * math.ceil(n / parts))
    length = min(math.ceil(n / parts) + extra, n)
    starts, weights = [], np.zeros((parts, n))
    for k, (begin, end) in enumerate(cores):
        wanted = end - length if in_front else begin - extra // 2
        start = min(max(wanted, 0), n - length)
        front, rear = begin - start, start + length - end
        before = np.zeros(front) if in_front else np.arange(1, front + 1) / (front + 1)
        after = np.arange(rear, 0, -1) / (rear + 1)
        weights[k, start : start + length] = np.concatenate([before, np.ones(end - begin), after])
        starts.append(start)
    weights = np.repeat(weights / weights.sum(0), unit, axis=1)
    of_parts = [weights[k, unit * start :][: unit * length] for k, start in enumerate(starts)]
    return Spans(
        unit * np.array(starts, np.int32), unit * length, np.stack(of_parts).astype(np.float32)
    )


def check_split(
    config: SplitConfig, shape: tuple[int, ...], mesh: Mesh | AbstractMesh | None, *, stride: int
) -> None:
    """Check a split of latents of `shape` (t h w c), for a network whose deepest level has one for
    each `stride` of them along h and w.

    Errors: `FieldError` for parts that do not fit the latents, or the mesh.
    """
    config = split_on(config, mesh)
    if config.by is SplitKind.FRAMES and shape[0] % config.parts:
        raise FieldError(
            f"by=frames: {shape[0]} frames are not divisible by the {config.parts} devices that share "
            "a clip (mesh.frames): give a number of frames that is, or by=latents"
        )
    if config.by is not SplitKind.LATENTS:
        return
    for letter in config.axes:
        size, unit = shape[_AXES[letter] - 1], _unit(letter, stride)
        if size % unit:
            raise FieldError(
                f"axes={config.axes}: latents of {size} {_NAMES[letter]} are not divisible by {unit}, "
                "the stride of the network: give axes=t, or another size"
            )
        if config.parts > size // unit:
            of = "" if unit == 1 else f" in units of {unit}, the stride of the network"
            raise FieldError(
                f"parts={config.parts}: latents have {size} {_NAMES[letter]}{of}: give at most "
                f"{size // unit} parts"
            )


def _unit(letter: str, stride: int) -> int:
    """Latents that parts of an axis are multiples of."""
    return 1 if letter == "t" else stride


def evaluated_share(config: SplitConfig, shape: tuple[int, ...], *, stride: int) -> float:
    """Latents that all parts together evaluate at a step, in clips; the mean over steps."""
    shares = []
    for letter in config.axes:
        size, unit = shape[_AXES[letter] - 1], _unit(letter, stride)
        parts = min(config.parts, max(size // unit, 1))
        length = spans(size, parts, min(config.overlap, parts - 1.0), unit=unit).length
        shares.append(config.parts * length / size)
    return sum(shares) / len(shares)


def latent_parallel(
    denoise: Denoise,
    mesh: Mesh | AbstractMesh | None,
    config: SplitConfig,
    *,
    times: Float[Any, "s"],
    stride: int = 1,
    is_directed: bool = False,
) -> Denoise:
    """Denoiser of whole clips that evaluates `denoise` on their parts (eq. 1); its output is float32.

    It is called inside of a `jax.shard_map` over `mesh`, where each of the devices of `frames`
    evaluates one part; on a mesh whose devices share no clips, or without one, all parts are evaluated
    one after the other. `times` are those of the sampler's steps, by which a call finds the axis that
    is split. `stride` is that of the network, `is_directed` whether its frames depend on no later ones.
    `denoise` reads the absolute number of its first frame in `Condition.first_frame`.
    """
    shares_clips = devices_per_clip(mesh) > 1
    config = split_on(config, mesh)
    if config.by is not SplitKind.LATENTS:
        return denoise

    def wrapped(
        z: Float[Array, "b t h w c"], time: Float[Array, "b"], condition: Condition, /
    ) -> Float[Array, "b t h w c"]:
        def evaluate(letter: str, part: Int[Array, ""]) -> Array:
            axis, is_time = _AXES[letter], letter == "t"
            these = spans(
                z.shape[axis],
                config.parts,
                config.overlap,
                unit=_unit(letter, stride),
                in_front=is_time and is_directed,
            )
            start, weights = jnp.asarray(these.starts)[part], jnp.asarray(these.weights)[part]
            cut = partial(
                jax.lax.dynamic_slice_in_dim,
                start_index=start,
                slice_size=these.length,
                axis=axis,
            )
            told = condition._replace(
                given=None if condition.given is None else cut(condition.given),
                first_frame=jnp.broadcast_to(start, time.shape) if is_time else None,
            )
            output = denoise(cut(z), time, told).astype(jnp.float32)
            output = output * jnp.expand_dims(weights, [i for i in range(z.ndim) if i != axis])
            nothing = jnp.zeros(z.shape, jnp.float32)
            return jax.lax.dynamic_update_slice_in_dim(nothing, output, start, axis)

        branches = [partial(evaluate, letter) for letter in config.axes]
        step = jnp.argmin(jnp.abs(jnp.asarray(times) - time[0]))

        def weighted(part: Int[Array, ""]) -> Array:
            if len(branches) == 1:
                return branches[0](part)
            return jax.lax.switch(step % len(branches), branches, part)

        if shares_clips:
            return jax.lax.psum(weighted(jax.lax.axis_index(FRAMES_AXIS)), FRAMES_AXIS)
        start = jnp.zeros(z.shape, jnp.float32)
        return jax.lax.fori_loop(0, config.parts, lambda k, sum_: sum_ + weighted(k), start)

    return wrapped
