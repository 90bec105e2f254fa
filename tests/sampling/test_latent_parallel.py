"""Latent Parallelism: parts that cover a clip, merged into what one device computes of the same parts, by one small
all-reduce a step."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from magicvideo_jax.core.checks import FieldError
from magicvideo_jax.core.types import Condition
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig
from magicvideo_jax.diffusion.process import Prediction
from magicvideo_jax.parallel.constraints import BATCH_AXES
from magicvideo_jax.parallel.mesh import MeshConfig, make_mesh
from magicvideo_jax.planning.collectives import find_collectives
from magicvideo_jax.sampling.clip_split import SplitConfig, SplitKind, mesh_of, split_on
from magicvideo_jax.sampling.keyframes import (
    SampleConfig,
    SamplerInputs,
    make_sampler_inputs,
    sample_keyframes,
)
from magicvideo_jax.sampling.latent_parallel import check_split, latent_parallel, spans

STRIDE, SHAPE = 2, (8, 16, 8, 3)
"""Stride of a network, and latents of a clip."""


def parts_of(axes: str = "t", overlap: float = 0.5, parts: int = 4) -> SplitConfig:
    return SplitConfig(SplitKind.LATENTS, parts, axes, overlap)


def inputs(clips: int = 2) -> tuple[jax.Array, jax.Array, Condition]:
    draw = np.random.default_rng(0)
    z, given, text = (
        jnp.asarray(draw.normal(size=shape), jnp.float32)
        for shape in ((clips, *SHAPE), (clips, *SHAPE[:3], 2), (clips, 5, 6))
    )
    return z, jnp.full(clips, 3.0), Condition(text, given=given)


def local(z, time, condition):
    """A network that looks at one place: what it knows of the whole clip is the number of each frame."""
    first = 0 if condition.first_frame is None else condition.first_frame[0]
    number = (first + jnp.arange(z.shape[1]))[None, :, None, None, None]
    by_clip = (condition.text.mean((1, 2)) + time / 2000)[:, None, None, None, None]
    return jnp.sin(z + number) * by_clip + condition.given[..., :1] ** 2


def mixing(z, time, condition):
    """A network whose every place depends on all that it is given."""
    return local(z, time, condition) + jnp.tanh(z).sum((1, 2, 3), keepdims=True) / 500


@pytest.mark.parametrize("in_front", [False, True])
@pytest.mark.parametrize("unit", [1, 2])
def test_parts_cover_an_axis_and_have_one_length(unit: int, in_front: bool):
    for n in range(1, 30):
        for parts in range(1, min(n, 9) + 1):
            for overlap in {0.0, 0.3, 0.5, 1.0, parts - 1.0}:
                if overlap > parts - 1:
                    continue
                these = spans(unit * n, parts, overlap, unit=unit, in_front=in_front)
                total = np.zeros(unit * n)
                for start, weights in zip(these.starts, these.weights, strict=True):
                    assert len(weights) == these.length
                    assert 0 <= start <= unit * n - these.length
                    assert start % unit == 0
                    total[start : start + these.length] += weights
                np.testing.assert_allclose(total, 1, rtol=1e-6)
                if overlap == 0:
                    assert these.length == unit * -(-n // parts)
                if overlap == parts - 1:
                    assert these.length == unit * n


def test_weights_rise_before_a_core_and_fall_behind_it():
    """Two parts of 4 with 2 frames more, worked out by hand: unnormalised 1 1 1 1 2/3 1/3 and its mirror."""
    these = spans(8, 2, 0.5)
    assert (list(these.starts), these.length) == ([0, 2], 6)
    expected = np.array([1, 1, 1 / (1 + 1 / 3), 1 / (1 + 2 / 3), 2 / 5, 1 / 4])
    np.testing.assert_allclose(these.weights[0], expected, rtol=1e-6)
    np.testing.assert_allclose(these.weights[1], expected[::-1], rtol=1e-6)


def test_parts_of_a_directed_network_have_their_overlap_in_front():
    """And no weight there: frames of an earlier part have a longer past."""
    these = spans(16, 4, 1.0, in_front=True)
    assert these.length == 8
    assert list(these.starts) == [0, 0, 4, 8]
    np.testing.assert_array_equal(these.weights[2:], [[0] * 4 + [1] * 4] * 2)


@pytest.mark.parametrize("axes", ["t", "h", "w"])
def test_a_network_that_looks_at_one_place_is_unchanged(axes: str):
    """Whatever the overlap: latents, known frames and the numbers of frames are cut alike."""
    z, time, condition = inputs()
    for overlap in (0.0, 0.5, 3.0):
        network = latent_parallel(
            local, None, parts_of(axes, overlap), times=np.float32([9, 3]), stride=STRIDE
        )
        np.testing.assert_allclose(
            network(z, time, condition), local(z, time, condition), rtol=0, atol=2e-6
        )


def test_parts_that_are_the_whole_clip_are_the_plain_network():
    z, time, condition = inputs()
    network = latent_parallel(mixing, None, parts_of("t", 3.0), times=np.float32([3]))
    np.testing.assert_allclose(network(z, time, condition), mixing(z, time, condition), atol=2e-6)
    smaller = latent_parallel(mixing, None, parts_of("t", 1.0), times=np.float32([3]))
    assert jnp.abs(smaller(z, time, condition) - mixing(z, time, condition)).max() > 0.01


def sample(
    mesh: Mesh | None, sampler: SamplerInputs, condition: Condition, keys: jax.Array
) -> jax.Array:
    """Latents of clips with guidance, as the generator samples them."""
    return sample_keyframes(
        {},
        condition,
        jnp.zeros_like(condition.text),
        keys,
        denoise=lambda params, z, time, condition, attention_window: mixing(z, time, condition),
        sampler=sampler,
        shape=SHAPE,
        in_parts=lambda denoise, times: latent_parallel(
            denoise, mesh, sampler.split, times=times, stride=STRIDE
        ),
    )


@pytest.mark.parametrize(
    ("axes", "settings"),
    [("t", {}), ("thw", {}), ("t", {"guidance_rescale": 0.7})],
    ids=["t", "thw", "rescaled"],
)
def test_clips_on_devices_are_those_of_their_emulation(axes: str, settings: dict[str, Any]):
    """Two clips of twenty steps on 2 x 4 devices are each, alone, what one device makes of the same parts. A step has
    one all-reduce, of the latents, or of both predictions where their deviation is read."""
    _, _, condition = inputs()
    keys, mesh = jax.random.split(jax.random.key(1), 2), make_mesh(MeshConfig(frames=4))
    config = SampleConfig(steps=20, guidance=3.0, split=parts_of(axes), **settings)
    noise = NoiseScheduleConfig(prediction_type=Prediction.X0)  # so that latents stay of one size
    sampler = make_sampler_inputs(config, noise, shape=SHAPE)
    clips = PartitionSpec(BATCH_AXES)
    on_devices = jax.shard_map(
        partial(sample, mesh),
        mesh=mesh,
        in_specs=(PartitionSpec(), clips, clips),
        out_specs=clips,
        check_vma=False,
    )
    program = jax.jit(on_devices).lower(sampler, condition, keys).compile()
    (merge,) = find_collectives(program.as_text(), 8)
    passes = 2 if settings else 1
    assert (merge.kind, merge.times, merge.group) == ("all-reduce", 20, 4)
    assert merge.bytes == passes * 4 * np.prod(SHAPE)

    made = jax.jit(on_devices)(sampler, condition, keys)
    for i in range(2):
        alone = jax.tree.map(lambda x, i=i: x[i : i + 1], (condition, keys))
        expected = jax.jit(partial(sample, None))(sampler, *alone)[0]
        assert jnp.abs(made[i] - expected).max() < 1e-6 * jnp.abs(expected).max()


def test_each_step_splits_the_next_axis():
    """Shapes that the network sees at each step, of a rotation over three axes."""
    z, _, condition = inputs()
    seen: list[tuple[int, ...]] = []

    def network(z, time, condition):
        jax.debug.callback(lambda _: seen.append(z.shape[1:4]), z)
        return z

    split = parts_of("thw", 0.0, 2)
    denoise = latent_parallel(
        network, None, split, times=np.float32([90, 60, 30, 5]), stride=STRIDE
    )
    for time in (90.0, 60.0, 30.0, 5.0):
        denoise(z, jnp.full(2, time), condition)
    jax.effects_barrier()
    t, h, w = SHAPE[:3]
    half = [(t // 2, h, w), (t, h // 2, w), (t, h, w // 2), (t // 2, h, w)]
    assert seen == [shape for shape in half for _ in range(2)]


@pytest.mark.parametrize(
    ("split", "frames", "said"),
    [
        (parts_of(parts=16), 1, "parts=16: latents have 8 frames: give at most 8 parts"),
        (parts_of("h", parts=9), 1, "parts=9: latents have 16 rows in units of 2, .* at most 8"),
        (parts_of("w", parts=2), 4, "parts=2: 4 devices share each clip .*: give 0, or 4"),
        (parts_of(overlap=5.0, parts=0), 4, r"overlap=5\.0: give at most 3, with which each of 4"),
    ],
)
def test_parts_that_do_not_fit_are_named(split: SplitConfig, frames: int, said: str):
    mesh = make_mesh(MeshConfig(frames=frames))
    with pytest.raises(FieldError, match=f"^{said}"):
        check_split(split, SHAPE, mesh, stride=STRIDE)


def test_shapes_that_cannot_be_split_are_named():
    with pytest.raises(FieldError, match="axes=h: latents of 15 rows are not divisible by 2"):
        check_split(parts_of("h"), (8, 15, 8, 3), None, stride=STRIDE)
    mesh = make_mesh(MeshConfig(frames=8))
    with pytest.raises(FieldError, match="by=frames: 12 frames are not divisible by the 8 devices"):
        check_split(SplitConfig(SplitKind.FRAMES), (12, 8, 8, 3), mesh, stride=STRIDE)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"parts": 2, "overlap": 1.5}, "overlap=1.5: give at most 1, with which each of 2 parts"),
        ({"overlap": -0.5}, "overlap=-0.5: give at least 0"),
        ({"parts": -1}, "parts=-1: give at least 0"),
        ({"axes": "tt"}, "axes=tt: give letters of thw, each once"),
        ({"axes": ""}, "axes=: give letters of thw"),
    ],
)
def test_fields_out_of_range_are_named(fields: dict[str, Any], said: str):
    with pytest.raises(FieldError, match=f"^{said}"):
        SplitConfig(SplitKind.LATENTS, **fields)


def test_what_devices_that_share_a_clip_do_not_have_is_refused():
    with pytest.raises(FieldError, match=r"split.by=latents: give none with .*feature_cache"):
        SampleConfig(feature_cache=2, split=parts_of())


def test_devices_share_clips_in_groups_of_the_parts():
    assert mesh_of(parts_of(parts=4), 8) == MeshConfig(frames=4)
    assert mesh_of(parts_of(parts=0), 8) == MeshConfig(frames=8)
    assert mesh_of(parts_of(parts=4), 1) == MeshConfig()
    assert mesh_of(SplitConfig(), 8) == MeshConfig()
    with pytest.raises(FieldError, match="parts=3: give a number that divides the 8 devices"):
        mesh_of(parts_of(parts=3), 8)
    # Where each device has clips of its own, only parts that are asked for are emulated.
    assert split_on(parts_of(parts=0), None).by is SplitKind.NONE
    assert split_on(parts_of(parts=4), None).parts == 4
