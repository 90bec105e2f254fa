"""A cascade: clips go from stage to stage, every stage is kept, and of the last one's frames one part is there."""

import shutil
import subprocess
import sys
import tracemalloc
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from clip_reading import read_clip

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.experiment.cascade.clip_refiner import ClipRefiner
from magicvideo_jax.experiment.cascade.clip_stream import SampledClips
from magicvideo_jax.experiment.cascade.clip_upscaling import ClipUpscaling
from magicvideo_jax.experiment.cascade.pairwise_interpolation import PairwiseInterpolation
from magicvideo_jax.experiment.pipeline import Pipeline
from magicvideo_jax.experiment.requests import cascade_run
from magicvideo_jax.experiment.requests.cascade_run import check_kept_folder, run_cascade
from magicvideo_jax.experiment.requests.clip_request import ClipRequest
from magicvideo_jax.media.clip_files import numbered_targets, usual_bytes
from magicvideo_jax.sampling.keyframes import SampleConfig

SETTINGS = SimpleNamespace(
    sample=SampleConfig(steps=7),
    model=SimpleNamespace(vae=SimpleNamespace(factor=4)),
)
SEEN: list[str] = []
"""What the stages did, in order."""


class Keyframes(Pipeline):
    """Clips of one grey for each prompt and clip."""

    experiment = SETTINGS

    def __init__(self, frames: int = 16, size: int = 8):
        self.shape = (frames, size, size)

    def release(self):
        SEEN.append("release keyframes")


class Enlarged(ClipUpscaling):
    """Repeats pixels; `refine_at_once` stands for the network."""

    experiment, sample = SETTINGS, SETTINGS.sample
    ends_after = 1000

    def __init__(self):
        self.alive: list[weakref.ref] = []

    def notes_on(self, prompt: str):
        return ()

    def refine_at_once(self, clips, prompts, *, frames, size, **_):
        assert not any(part() is not None for part in self.alive), "an earlier part is still there"
        if len(self.alive) == self.ends_after:
            raise KeyboardInterrupt
        SEEN.append(f"upscale {frames}")
        part = clips.pixels.repeat(4, axis=2).repeat(4, axis=3)
        self.alive.append(weakref.ref(part))
        return part

    def release(self):
        SEEN.append("release upscaler")


class Blended(PairwiseInterpolation):
    """Repeats the first of each pair."""

    experiment, sample = SETTINGS, SETTINGS.sample

    def __init__(self):
        pass

    def notes_on(self, prompt: str):
        return ()

    def refine_at_once(self, clips, prompts, **_):
        SEEN.append("interpolate")
        return clips.pixels[:, :1].repeat(5, axis=1)

    def release(self):
        SEEN.append("release interpolation")


@pytest.fixture(autouse=True)
def _sampled_greys(monkeypatch):
    def sample_clips(pipe, request, source):
        SEEN.append(f"sample {request.prompt}")
        levels = np.arange(request.num, dtype=np.uint8) * 20 + 10 * len(request.prompt)
        shape = (request.num, *pipe.shape, 3)
        return SampledClips(np.broadcast_to(levels[:, None, None, None, None], shape), 8.0)

    SEEN.clear()
    monkeypatch.setattr(cascade_run, "sample_clips", sample_clips)
    monkeypatch.setattr(cascade_run, "clip_size", lambda pipe, request: pipe.shape)


def made(cascade, requests, **more) -> None:
    for clips in run_cascade(cascade, requests, **more):
        clips.read()


def test_stages_follow_one_another_and_one_network_is_on_the_devices(tmp_path):
    made((Keyframes(3), Blended(), Enlarged()), [ClipRequest("a"), ClipRequest("bb")])
    assert [
        *("sample a", "sample bb", "release keyframes"),
        *("interpolate", "interpolate", "release interpolation"),
        *("upscale 8", "upscale 1") * 2,
        "release upscaler",
    ] == SEEN


def test_every_stage_is_kept_and_the_result_lies_where_it_shall(tmp_path):
    keep, out = tmp_path / "stages", numbered_targets(tmp_path / "clip.mp4", 4)
    requests = [ClipRequest("a", num=2), ClipRequest("bb", num=2)]
    made((Keyframes(3), Blended(), Enlarged()), requests, keep=keep, out=out)
    stages = {"0_keyframes": (3, 8, 8), "1_interpolated": (9, 8, 8), "2_upscaled": (9, 32, 32)}
    assert {file.name for file in keep.iterdir()} == {
        f"{name}_{clip}.mp4" for name in stages for clip in range(4)
    }
    for name, size in stages.items():
        for clip, level in enumerate((10, 30, 20, 40)):
            frames, rate = read_clip(keep / f"{name}_{clip}.mp4")
            assert frames.shape[:3] == size
            assert rate == pytest.approx(8 if name == "0_keyframes" else 32)
            assert np.abs(frames.astype(int) - level).max() <= 3
    for clip in range(4):
        kept = keep / f"2_upscaled_{clip}.mp4"
        assert Path(out[clip]).read_bytes() == kept.read_bytes()


def test_what_earlier_stages_made_outlives_an_interrupted_one(tmp_path):
    larger = Enlarged()
    larger.ends_after = 1
    with pytest.raises(KeyboardInterrupt):
        made((Keyframes(), larger), [ClipRequest("a")], keep=tmp_path, out=[tmp_path / "clip.mp4"])
    assert [file.name for file in tmp_path.iterdir()] == ["0_keyframes.mp4"]


@pytest.mark.parametrize("name", ["clip.mp4", "frames/"])
def test_memory_does_not_grow_with_the_number_of_frames(tmp_path, name):
    """Beyond what small frames need; `Enlarged` sees that one part is there at a time."""

    def peak(frames: int) -> int:
        tracemalloc.start()
        made((Keyframes(frames, 16), Enlarged()), [ClipRequest("a")], out=[f"{tmp_path}/{name}"])
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(8)  # whatever is made once
    few, many = peak(16), peak(64)
    large_frames = 48 * 64 * 64 * 3
    assert many - few < 0.2 * large_frames


@pytest.mark.slow
def test_memory_of_a_process_does_not_grow_with_the_number_of_frames(tmp_path):
    """61 and 244 frames of 512 x 512: the larger clip would take 144 MB more."""
    program = (
        "import sys, resource; from test_cascade_run import *; "
        "cascade_run.sample_clips = lambda pipe, request, source: "
        "SampledClips(np.zeros((1, *pipe.shape, 3), np.uint8), 8.0); "
        "cascade_run.clip_size = lambda pipe, request: pipe.shape; "
        f"made((Keyframes(int(sys.argv[1]), 128), Enlarged()), [ClipRequest('a')], "
        f"out=['{tmp_path}/clip.mp4']); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )

    def kilobytes(frames: int) -> int:
        command = [sys.executable, "-c", program, str(frames)]
        paths = [str(Path(__file__).parent), *sys.path]
        environment = {"PYTHONPATH": ":".join(paths), "JAX_PLATFORMS": "cpu"}
        ended = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return int(ended.stdout)

    assert kilobytes(244) - kilobytes(61) < 30_000


def test_no_room_for_the_result_is_said_before_anything_is_sampled(tmp_path, monkeypatch):
    cascade, request = (Keyframes(), Enlarged()), ClipRequest("a")
    needed = usual_bytes("clip.mp4", 16, 32, 32)

    def with_free(size: int, **more) -> None:
        usage = shutil._ntuple_diskusage(10**9, 0, size)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        made(cascade, [request], out=[tmp_path / "new" / "clip.mp4"], **more)

    with_free(needed)
    SEEN.clear()
    for more in ({"size": needed - 1}, {"size": needed + 10, "keep": tmp_path / "stages"}):
        with pytest.raises(UserError, match="no room for the result: about") as error:
            with_free(more.pop("size"), **more)
        assert "\n" not in str(error.value)
    assert SEEN == []


def test_a_folder_of_frames_needs_more_room_than_a_film():
    sizes = [usual_bytes(name, 61, 1024, 1024) for name in ("a.mp4", "a.gif", "a", "a/")]
    assert sizes == sorted(sizes)
    assert sizes[2] == sizes[3] == 61 * 1024**2 * 3 // 2


def test_what_is_too_short_is_refused_before_it_is_sampled():
    with pytest.raises(UserError, match="--interpolate: a clip of 1 frame has nothing between"):
        made((Keyframes(1), Blended()), [ClipRequest("a")])
    assert SEEN == []


def test_stages_are_kept_in_a_folder_alone(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"--keep=.*file: a file: give a folder"):
        check_kept_folder(str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot be written: Not a directory"):
        check_kept_folder(str(tmp_path / "file" / "stages"))
    check_kept_folder(str(tmp_path / "new" / "stages"))
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_progress_counts_frames_of_every_stage(capsys):
    made((Keyframes(), Blended(), Enlarged()), [ClipRequest("a", steps=5)])
    lines = [line.split("  ")[0] for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "stage 1 of 3, sample, 5 steps 16/16",
        "stage 2 of 3, interpolate, 5 steps 61/61",
        "stage 3 of 3, upscale, 5 steps 61/61",
    ]
    made((Keyframes(),), [ClipRequest("a")])
    assert capsys.readouterr().err.startswith("sample, 7 steps 16/16")


def test_a_stage_is_a_pipeline_or_a_refiner():
    """What a cascade asks of both has the same names."""
    for name in ("label", "result"):
        assert isinstance(getattr(Pipeline, name), str)
        assert all(isinstance(getattr(kind, name), str) for kind in (Enlarged, Blended))
    assert issubclass(Enlarged, ClipRefiner)
