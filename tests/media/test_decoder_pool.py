"""Workers answer in order, and outlive every file: broken, hanging, deadly."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from test_frame_reader import make

from magicvideo_jax.media import decoder_pool
from magicvideo_jax.media.decoder_pool import (
    DecodedClip,
    DecodeJob,
    DecoderPool,
    SkippedClip,
    decode,
)


def job(path: Path, seed: int = 0) -> DecodeJob:
    return DecodeJob(path, (seed,), frames=4, sizes=((16, 16),), fps_range=(1.0, 24.0))


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("clips") / "clip.mp4", ["-c:v", "libx264"])


def test_answers_come_in_order_and_as_in_this_process(clip, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no clip")
    jobs = [job(tmp_path / "broken.mp4") if i % 5 == 2 else job(clip, i) for i in range(23)]
    with DecoderPool(2) as decoders:
        found = list(decoders.clips(jobs))
    for asked, answer in zip(jobs, found, strict=True):
        here = decode(asked)
        if isinstance(here, SkippedClip):
            assert answer == here
        else:
            assert isinstance(answer, DecodedClip)
            assert answer.fps == here.fps
            np.testing.assert_array_equal(answer.frames, here.frames)


def answers_after(
    what: signal.Signals, clip: Path, *, jobs: int, timeout: float
) -> list[DecodedClip | SkippedClip]:
    """All but the first, after which the worker gets a signal."""
    with DecoderPool(1, timeout=timeout) as decoders:
        answers = decoders.clips([job(clip, i) for i in range(jobs)])
        next(answers)
        os.kill(decoders._workers[0]._process.pid, what)
        return list(answers)


def test_a_decoder_that_hangs_is_replaced_after_the_time_out(clip):
    found = answers_after(signal.SIGSTOP, clip, jobs=20, timeout=2.0)
    assert [answer for answer in found if isinstance(answer, SkippedClip)] == [
        SkippedClip("takes longer than 2 s to decode")
    ]
    assert len(found) == 19


def test_a_worker_that_is_killed_is_replaced(clip):
    found = answers_after(signal.SIGSEGV, clip, jobs=40, timeout=20.0)
    refused = [answer for answer in found if isinstance(answer, SkippedClip)]
    assert len(found) == 39
    assert len(refused) <= 1
    assert all(answer.reason == "the decoder process crashed on this file" for answer in refused)


def test_workers_are_light_and_end_with_a_parent_that_is_killed(clip):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom magicvideo_jax.media.decoder_pool import *\n"
        f"with DecoderPool(1) as d:\n    job = DecodeJob(Path({str(clip)!r}), (0,), 4, ((16, 16),), (1.0, 24.0))\n"
        "    list(d.clips([job]))\n"
        "    print(d._workers[0]._process.pid, 'jax' in sys.modules, flush=True)\n    time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as parent:
        pid, has_jax = parent.stdout.readline().split()
        worker = psutil.Process(int(pid))
        assert has_jax == "False"
        assert worker.memory_info().rss < 300 * 2**20
        parent.kill()
    worker.wait(5)


def test_memory_is_limited(clip):
    with DecoderPool(1) as decoders:
        list(decoders.clips([job(clip)]))
        limit = psutil.Process(decoders._workers[0]._process.pid).rlimit(psutil.RLIMIT_AS)[0]
    assert limit == decoder_pool._MEMORY


def test_no_process_is_left_when_an_exception_leaves_the_block(clip):
    def leave_early(jobs: int) -> None:
        with DecoderPool(2) as decoders:
            next(decoders.clips([job(clip, i) for i in range(jobs)]))
            raise KeyboardInterrupt

    before = set(psutil.Process().children())
    for jobs in (1, 5, 12):
        with pytest.raises(KeyboardInterrupt):
            leave_early(jobs)
        assert set(psutil.Process().children()) == before


def test_a_process_with_many_open_files_can_decode(clip):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 1200:
        pytest.skip("this system allows too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1200), hard))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1050)]
    try:
        with DecoderPool(1) as decoders:
            assert isinstance(next(decoders.clips([job(clip)])), DecodedClip)
    finally:
        for descriptor in opened:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_file_that_goes_away_is_refused(tmp_path):
    assert decode(job(tmp_path / "gone.mp4")) == SkippedClip("is not there any more")


def mutants(sources: list[Path], folder: Path, number: int) -> list[Path]:
    """Clips with bytes flipped, cut off, repeated, or spliced with another."""
    rng, made = np.random.default_rng(0), []
    for i in range(number):
        source = sources[i % len(sources)]
        data = bytearray(source.read_bytes())
        match i // len(sources) % 4:
            case 0:
                for place in rng.integers(len(data), size=rng.integers(1, 60)):
                    data[place] = rng.integers(256)
            case 1:
                data = data[: rng.integers(1, len(data))]
            case 2:
                a, b = sorted(rng.integers(len(data), size=2))
                data[a:a] = data[a:b]
            case 3:
                other = sources[rng.integers(len(sources))].read_bytes()
                data = data[: rng.integers(len(data))] + other[rng.integers(len(other)) :]
        made.append(folder / f"{i:03d}{source.suffix}")
        made[-1].write_bytes(data)
    return made


def fuzz(tmp_path: Path, number: int) -> list[DecodedClip | SkippedClip]:
    kinds = {
        "a.mp4": ["-c:v", "libx264"],
        "b.mkv": ["-c:v", "libx264", "-g", "5"],
        "c.webm": ["-c:v", "libvpx-vp9", "-cpu-used", "8"],
        "d.avi": ["-c:v", "mpeg4"],
        "e.gif": ["-vf", "scale=80:60"],
        "f.webp": ["-vf", "scale=80:60", "-c:v", "libwebp_anim"],
        "g.png": ["-vf", "scale=80:60", "-frames:v", "1"],
    }
    (tmp_path / "sources").mkdir()
    sources = [make(tmp_path / "sources" / name, how, seconds=1) for name, how in kinds.items()]
    jobs = [job(path, i) for i, path in enumerate(mutants(sources, tmp_path, number))]
    with DecoderPool(2, timeout=20.0) as decoders:
        return list(decoders.clips(jobs))


def check_fuzzed(found: list[DecodedClip | SkippedClip], number: int) -> None:
    assert len(found) == number
    refused = [answer for answer in found if isinstance(answer, SkippedClip)]
    assert number // 10 < len(refused) < number
    assert all(answer.reason and "\n" not in answer.reason for answer in refused)
    assert not [answer for answer in refused if answer.reason.startswith("takes longer")]


def test_mutated_clips_are_decoded_or_refused(tmp_path):
    check_fuzzed(fuzz(tmp_path, 56), 56)


@pytest.mark.slow
def test_300_mutated_clips(tmp_path):
    check_fuzzed(fuzz(tmp_path, 300), 300)


@pytest.mark.slow
def test_memory_stays_flat_over_2000_clips(clip):
    with DecoderPool(1) as decoders:
        sizes = []
        for i, _ in enumerate(decoders.clips([job(clip, i) for i in range(2000)])):
            if i % 200 == 199:
                sizes.append(psutil.Process(decoders._workers[0]._process.pid).memory_info().rss)
    assert max(sizes[2:]) < 1.1 * sizes[1], sizes
