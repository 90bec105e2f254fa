"""Context windows: the published schedule, averages that change nothing where they should not, one compile."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from magicvideo_jax.core.checks import FieldError
from magicvideo_jax.core.keys import key_for
from magicvideo_jax.core.types import Condition
from magicvideo_jax.diffusion.guidance import guided
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig
from magicvideo_jax.diffusion.process import Prediction
from magicvideo_jax.diffusion.sampler import run_sampler
from magicvideo_jax.diffusion.solvers import ddim, euler
from magicvideo_jax.sampling.windows import (
    ContextConfig,
    ContextFusion,
    context_windows,
    uniform_windows,
    windowed,
)

LENGTHS = [16, 17, 24, 32, 33, 61, 64, 100, 128]
STEPS = [*range(9), 30, 49]


def published(step, frames, size, overlap, most_strides, loop):
    """The `uniform` schedule as its authors state it: lists of frames, modulo the clip's."""
    if frames <= size:
        return [list(range(frames))]
    half = int(f"{step:064b}"[::-1], 2) / 2**64
    pad, found = round(frames * half), []
    for stride in 1 << np.arange(min(most_strides, int(np.ceil(np.log2(frames / size))) + 1)):
        stride = int(stride)
        starts = range(
            int(half * stride) + pad,
            frames + pad + (0 if loop else -overlap),
            size * stride - overlap,
        )
        found += [
            [frame % frames for frame in range(start, start + size * stride, stride)]
            for start in starts
        ]
    return found


def frames_of(windows, size, frames):
    return [[(first + i * stride) % frames for i in range(size)] for first, stride in windows]


@pytest.mark.parametrize("strides", [1, 2, 4])
@pytest.mark.parametrize("frames", LENGTHS)
def test_windows_of_a_loop_are_the_published(frames, strides):
    config = ContextConfig(frames=16, stride=strides, loop=True)
    for step in STEPS:
        ours = frames_of(uniform_windows(config, frames=frames, step=step), 16, frames)
        assert ours == published(step, frames, 16, 4, strides, True), step


@pytest.mark.parametrize("overlap", [0, 4, 15])
@pytest.mark.parametrize("strides", [1, 2, 4])
@pytest.mark.parametrize("frames", LENGTHS)
def test_without_a_loop_the_first_and_last_replace_those_across_the_end(frames, strides, overlap):
    config = ContextConfig(frames=16, stride=strides, overlap=overlap)
    for step in STEPS:
        ours = frames_of(uniform_windows(config, frames=frames, step=step), 16, frames)
        theirs = published(step, frames, 16, overlap, strides, False)
        inside = [window for window in theirs if window == sorted(window)]
        assert all(window in ours for window in inside)
        for window in ours:
            assert len(set(window)) == 16
            assert window == sorted(window)
            assert window in inside or window[0] == 0 or window[-1] == frames - 1


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("size", [2, 5, 16])
def test_every_frame_is_covered_at_every_step(size, loop):
    for frames in range(1, 70):
        for overlap in {0, 1, size // 2, size - 1}:
            config = ContextConfig(frames=size, overlap=overlap, loop=loop)
            for step in range(8):
                windows = uniform_windows(config, frames=frames, step=step)
                covered = {f for window in frames_of(windows, size, frames) for f in window}
                assert covered == set(range(frames))


def test_seams_move_from_step_to_step():
    config = ContextConfig(frames=16)
    starts = [tuple(uniform_windows(config, frames=64, step=step)) for step in range(8)]
    assert len(set(starts)) == 8


@pytest.mark.parametrize("loop", [False, True])
def test_shares_of_the_windows_sum_to_one(loop):
    """A network that treats each frame alike gives what it gives without windows."""
    windows = context_windows(
        ContextConfig(frames=4, overlap=1, stride=3, loop=loop), frames=11, steps=6
    )
    assert windows is not None
    times = np.arange(6, dtype=np.float32)[::-1] * 100.5
    z = jax.random.normal(key_for(0, 0, "z"), (2, 11, 2, 3, 1))

    def denoise(z, time, condition):
        return jnp.sin(z) + 0.01 * time.reshape(-1, 1, 1, 1, 1)

    for time in times:
        time = jnp.full(2, time)
        got = windowed(denoise, windows, times)(z, time, None)
        np.testing.assert_allclose(got, denoise(z, time, None), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("sampler", [ddim, euler])
def test_sampling_averages_the_windows_of_each_step(sampler, loop):
    """The schedule and the average are written as loops, the network mixes frames."""
    steps, frames, size = 5, 11, 4
    settings = NoiseScheduleConfig(prediction_type=Prediction.X0)
    table = sampler(settings, steps)
    config = ContextConfig(frames=size, overlap=1, stride=2, loop=loop)
    windows = context_windows(config, frames=frames, steps=steps)
    assert windows is not None
    place = np.arange(size, dtype=np.float32).reshape(1, -1, 1, 1, 1)

    def denoise(z, time, condition):
        mixed = z.mean(axis=1, keepdims=True) * (1 + place) + 0.3 * z
        return mixed + 0.001 * time.reshape(-1, 1, 1, 1, 1)

    z = jax.random.normal(key_for(0, 0, "z"), (2, frames, 1, 2, 1))
    got = run_sampler(windowed(denoise, windows, table.steps.time), z, None, table=table)

    carried, rows = np.asarray(z, np.float64), table.steps
    for step in range(steps):
        total, count = np.zeros_like(carried), np.zeros(frames)
        for window in frames_of(uniform_windows(config, frames=frames, step=step), size, frames):
            output = denoise(carried[:, window], np.full(2, rows.time[step]), None)
            for i, frame in enumerate(window):
                total[:, frame] += output[:, i]
                count[frame] += 1
        x0 = total / count.reshape(1, -1, 1, 1, 1)
        carried = rows.a[step] * carried + rows.b[step] * x0
    assert np.abs(got - carried).max() / np.abs(carried).max() < 1e-5


def test_a_clip_that_fits_a_window_has_none():
    assert context_windows(ContextConfig(), frames=500, steps=3) is None
    assert context_windows(ContextConfig(frames=16), frames=16, steps=3) is None
    assert context_windows(ContextConfig(frames=16), frames=7, steps=3) is None
    assert uniform_windows(ContextConfig(frames=16), frames=7, step=3) == [(0, 1)]
    in_attention = ContextConfig(frames=16, fuse=ContextFusion.ATTENTION)
    assert context_windows(in_attention, frames=64, steps=3) is None
    assert in_attention.for_clip(17).attention_window == 16
    assert in_attention.for_clip(16) == ContextConfig()


def test_conditions_of_frames_go_with_their_window():
    windows = context_windows(ContextConfig(frames=4, overlap=1, stride=2), frames=9, steps=1)
    assert windows is not None
    known = jax.random.normal(key_for(0, 0, "known"), (2, 9, 1, 1, 3))
    strides = []

    def denoise(z, time, condition):
        return 2 * condition

    def select(condition, frames, stride):
        strides.append(stride)
        return jnp.take(condition, frames, axis=1)

    z, time = jnp.zeros((2, 9, 1, 1, 3)), jnp.zeros(2)
    got = windowed(denoise, windows, np.zeros(1, np.float32), select=select)(z, time, known)
    np.testing.assert_allclose(got, 2 * known, rtol=1e-6)
    assert strides


def test_guidance_applies_to_the_whole_clip():
    windows = context_windows(ContextConfig(frames=4, overlap=2), frames=10, steps=1)
    assert windows is not None
    shapes = []

    def denoise(z, time, condition):
        shapes.append((z.shape, condition.text.shape))
        return z * condition.text.mean(axis=(1, 2)).reshape(-1, 1, 1, 1, 1)

    text, null = jnp.ones((2, 3, 4)), jnp.zeros((1, 3, 4))
    z = jax.random.normal(key_for(0, 0, "z"), (2, 10, 1, 1, 1))
    network = guided(
        windowed(denoise, windows, np.zeros(1, np.float32)), 3.0, Condition(null), rescale=0.7
    )
    plain = guided(denoise, 3.0, Condition(null), rescale=0.7)
    time = jnp.zeros(2)
    np.testing.assert_allclose(
        network(z, time, Condition(text)), plain(z, time, Condition(text)), rtol=1e-5
    )
    assert shapes[0] == ((4, 4, 1, 1, 1), (4, 3, 4))


def test_one_network_in_one_loop_for_all_steps_and_windows():
    asked = []

    def counted(z, time, condition):
        asked.append(z.shape)
        return jnp.sin(z)

    config = ContextConfig(frames=4, overlap=1)
    windows = context_windows(config, frames=20, steps=30)
    table = ddim(NoiseScheduleConfig(), 30)

    @jax.jit
    def run(table, windows, z):
        network = windowed(counted, windows, table.steps.time)
        return run_sampler(network, z, None, table=table)

    z = jax.random.normal(key_for(0, 0, "z"), (1, 20, 1, 1, 1))
    run(table, windows, z)
    assert asked == [(1, 4, 1, 1, 1)]
    # Windows are arguments: those of a table of the same shape compile nothing.
    run(euler(NoiseScheduleConfig(), 30), windows, z)
    assert len(asked) == 1


def test_no_window_is_longer_than_its_stride_allows():
    for frames in LENGTHS:
        for step in STEPS:
            windows = uniform_windows(
                ContextConfig(frames=16, stride=9, loop=True), frames=frames, step=step
            )
            most = max(1, 2 ** math.ceil(math.log2(frames / 16)))
            assert max(stride for _, stride in windows) == most


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"frames": 0}, "frames=0: give at least 1"),
        ({"frames": 4, "overlap": 4}, "overlap=4: give less than frames=4"),
        ({"frames": 4, "overlap": -1}, "overlap=-1: give at least 0"),
        ({"frames": 4, "stride": 0}, "stride=0: give at least 1"),
        ({"reuse_noise": True}, "reuse_noise=True: give frames"),
        ({"fuse": ContextFusion.ATTENTION}, "fuse=attention: give frames"),
        (
            {"frames": 4, "loop": True, "fuse": ContextFusion.ATTENTION},
            "fuse=attention: give output for windows with a stride or a loop",
        ),
    ],
)
def test_impossible_windows_are_named(fields, words):
    with pytest.raises(FieldError, match=words):
        ContextConfig(**({"overlap": 0} | fields))
