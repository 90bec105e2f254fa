"""`prepare`, run as people run it: real clips in, a data set out, the same bytes however often it was killed."""

import contextlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from checkout import ROOT
from test_frame_reader import make

from magicvideo_jax import prepare as verb
from magicvideo_jax.data.record_examples import captions_of
from magicvideo_jax.data.records import TRAIN, VALIDATION, from_png, open_records
from magicvideo_jax.media.decoder_pool import decode
from magicvideo_jax.preparation.clip_listing import list_clips
from magicvideo_jax.preparation.latent_encoder import open_latent_encoder
from magicvideo_jax.preparation.shards import ClipSamplingConfig, job_of, shards_of, split_of

TAESD = Path(__file__).parents[3] / "shared" / "assets" / "taesd"


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Fourteen clips, four of which cannot be used, and their captions."""
    folder = tmp_path_factory.mktemp("input") / "clips"
    folder.mkdir()
    first = make(folder / "clip00.mp4", ["-c:v", "libx264"])
    for i in range(1, 10):
        (folder / f"clip{i:02d}.mp4").write_bytes(first.read_bytes())
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "junk.mkv").write_bytes(b"junk" * 100)
    make(folder / "one.gif", ["-frames:v", "1", "-vf", "scale=32:24"])
    make(folder / "short.mp4", ["-c:v", "libx264"], seconds=0.3)
    rows = [f"{path.name},about {path.stem}" for path in sorted(folder.iterdir())]
    (folder.parent / "captions.csv").write_text(
        "\n".join(["video,caption", *rows, "clip01.mp4,again"]) + "\n"
    )
    return folder


def command(videos: Path, out: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "magicvideo_jax.prepare", f"--videos={videos}", f"--out={out}"),
        *(
            f"--captions={videos.parent / 'captions.csv'}",
            "--frames=8",
            "--size=32",
            "--per_shard=3",
        ),
        *("--validation=0.3", "--workers=1", *more),
    ]


def prepare(videos: Path, out: Path, *more: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command(videos, out, *more), check=False, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done


def prepare_here(*arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `prepare`, without a process of its own."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr(sys, "argv", ["prepare", *arguments])
        try:
            verb.main()
        except SystemExit as end:
            return int(end.code or 0), out.getvalue(), err.getvalue()
    return 0, out.getvalue(), err.getvalue()


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def whole(videos, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out") / "set"
    said = prepare(videos, out)
    assert "used     10 clips" in said.stdout
    assert "skipped  4 clips" in said.stdout
    return out


def test_what_was_skipped_and_why_is_kept(whole):
    lines = [json.loads(line) for line in (whole / "skipped.jsonl").read_text().splitlines()]
    assert {line["video"]: line["reason"] for line in lines} == {
        "empty.mp4": "is empty",
        "junk.mkv": "cannot be opened as a video (Invalid data found when processing input)",
        "one.gif": "too short: 1 frames, and 8 are wanted",
        "short.mp4": "too short: 5 frames, and 8 are wanted",
    }


def test_every_other_clip_is_in_the_split_of_its_name_with_its_captions(whole, videos):
    seen = {}
    for split in (TRAIN, VALIDATION):
        records = open_records(whole, split)
        for i in range(len(records)):
            name = records[i]["name"].decode()
            assert split_of(name, 0.3) == split
            seen[name] = captions_of(records[i])
    expected = {f"clip{i:02d}.mp4": [f"about clip{i:02d}"] for i in range(10)}
    assert seen == expected | {"clip01.mp4": ["about clip01", "again"]}


def test_latents_are_those_of_the_vae_applied_afresh(whole, videos):
    records, encoder = open_records(whole), open_latent_encoder("embedded", argument="--vae")
    sampling = ClipSamplingConfig(frames=8, sizes=((32, 32),), validation=0.3, per_shard=3)
    by_name = {
        entry.name: entry for entry in list_clips(videos, videos.parent / "captions.csv").entries
    }
    for i in range(2):
        decoded = decode(job_of(by_name[records[i]["name"].decode()], sampling))
        afresh = encoder.batches(1)(decoded.frames[None])[0]
        np.testing.assert_allclose(records[i]["latents"], afresh, atol=2e-2, rtol=2e-3)
        assert records[i]["fps"] == np.float32(decoded.fps)


@pytest.mark.skipif(not TAESD.is_dir(), reason="shared/assets/taesd is not here")
def test_taesd_encodes_too(videos, tmp_path):
    assert prepare_here(*command(videos, tmp_path / "set", f"--vae={TAESD}")[3:])[0] == 0
    record = open_records(tmp_path / "set")[0]
    mean, log_variance = np.split(record["latents"].astype(np.float32), 2, axis=-1)
    assert mean.shape == (8, 4, 4, 4)
    assert (log_variance == -30).all()
    assert 0.3 < (mean * 0.18215).std() < 3


def test_frames_instead_of_latents(videos, tmp_path):
    assert prepare_here(*command(videos, tmp_path / "set", "--pixels")[3:])[0] == 0
    frames = from_png(open_records(tmp_path / "set")[0]["frames"])
    assert frames.shape == (8, 32, 32, 3)
    assert np.abs(np.diff(frames.astype(int), axis=0)).mean() > 0.5


def test_a_second_run_keeps_what_is_there(whole, videos):
    before = {path: path.stat().st_mtime_ns for path in whole.glob("clips-*")}
    code, said, _ = prepare_here(*command(videos, whole)[3:])
    assert code == 0
    assert "used     10 clips" in said
    assert before == {path: path.stat().st_mtime_ns for path in whole.glob("clips-*")}


def test_two_processes_make_what_one_makes(videos, tmp_path):
    assert prepare_here(*command(videos, tmp_path / "one", "--pixels")[3:])[0] == 0
    out = tmp_path / "set"
    running = [
        subprocess.Popen(command(videos, out, "--pixels", f"--part={i}/2")) for i in range(2)
    ]
    assert [process.wait() for process in running] == [0, 0]
    assert content(out) == content(tmp_path / "one")


def test_the_processes_of_a_job_make_what_one_makes(whole, videos, tmp_path, free_port):
    out = tmp_path / "set"
    job = [str(ROOT / "launch" / "local.sh"), "2", *command(videos, out)]
    done = subprocess.run(
        job, check=True, capture_output=True, text=True, env={**os.environ, "PORT": str(free_port)}
    )
    assert done.stdout.count("used     10 clips") == 1
    assert content(out) == content(whole)


def check_kills(videos: Path, folder: Path, times: int, *more: str) -> None:
    """Killed at any moment of its work, again and again, then let through: the bytes of a run that was not."""
    more = ("--per_shard=1", *more)
    prepare(videos, folder / "unbroken", *more)
    rng, out, left = random.Random(0), folder / "set", []

    def done() -> int:
        return len(list(out.glob("shards/*.json")))

    for _ in range(times):
        until = rng.randrange(done(), 14)
        with subprocess.Popen(
            command(videos, out, *more), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        ) as run:
            while done() < until and run.poll() is None:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.3))
            run.send_signal(signal.SIGKILL)
        left.append(done())
        if left[-1] == 14:
            shutil.rmtree(out)
    assert any(0 < reports < 14 for reports in left), left
    prepare(videos, out, *more)
    assert content(out) == content(folder / "unbroken")


def test_a_run_killed_at_any_moment_ends_with_the_same_bytes(videos, tmp_path):
    check_kills(videos, tmp_path, 4, "--pixels")


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--pixels",)], ids=["latents", "pixels"])
def test_a_run_killed_20_times_ends_with_the_same_bytes(videos, tmp_path, more):
    check_kills(videos, tmp_path, 20, *more)


def test_check_says_what_would_happen_and_writes_only_a_sheet(videos, tmp_path):
    code, said, _ = prepare_here(*command(videos, tmp_path / "set", "--check")[3:])
    assert code == 0
    assert "clips       14" in said
    assert "captions.csv, read as a table of video and caption" in said
    assert "left out    nothing" in said
    assert "skipped     empty.mp4: is empty" in said
    assert [path.name for path in tmp_path.iterdir()] == ["set-check.png"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--size=30"], "--size=30x30: give multiples of 8"),
        (["--size=32x"], "--size=32x: give pixels"),
        (["--size=32,32x32"], "the same size is given twice"),
        (["--frames=0"], "--frames=0: give at least 1"),
        (["--fps=8"], "--fps=8: give two numbers"),
        (["--fps=8-4"], "--fps=8-4: give the lower rate first"),
        (["--part=2/2"], "--part=2/2"),
        (["--validation=1"], "--validation=1.0"),
        (["--text=nothing"], "--text=nothing: no such file or folder"),
        (["--text=embedded", "--pixels"], "--text: its states are stored beside latents"),
        (["--vae=nothing"], "--vae=nothing: no such file or folder"),
        (["--fps=nan-nan"], "--fps=nan-nan: give the lower rate first"),
        (["--fps=1-inf"], "--fps=1-inf: give the lower rate first"),
        (["--seed=-1"], "--seed=-1: give 0 or more"),
        (["--size=100000"], "--size=100000x100000: give at most"),
        (["--timeout=nan"], "--timeout=nan: give at least 1 second"),
        (["--workers=0"], "--workers=0: give at least 1"),
        (["--videos="], "--videos is empty: give a path"),
        (["--videos=gs://bucket/clips"], "--videos=gs://bucket/clips: only local paths"),
        (["--out=gs://bucket/set"], "--out=gs://bucket/set: only local paths"),
        (["--out=/", "--check"], "--out=/: give a new folder"),
        (["--captions="], "--captions is empty: give a path"),
        (["--video_column=clip"], "--video_column=clip: --captions="),
        (["--captions=no.csv"], "no.csv: no such file"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(videos, tmp_path, more, said):
    code, _, err = prepare_here(*command(videos, tmp_path / "set", *more)[3:])
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "set").exists()


def test_a_set_is_not_mixed_with_another(whole, videos, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("")
    for out, more, said in (
        (whole, "--size=64", "was begun with another sizes"),
        (tmp_path, "--pixels", "this folder is not empty"),
        (tmp_path / "file", "--pixels", "cannot be written: Not a directory"),
    ):
        code, _, err = prepare_here(*command(videos, out, more)[3:])
        assert code == 2
        assert said in err


def test_shards_follow_from_names(videos):
    entries = list_clips(videos, None).entries
    one, other = (
        shards_of(some, ClipSamplingConfig(per_shard=4))
        for some in (entries, list_clips(videos, None).entries)
    )
    assert one == other
    assert sum(len(shard.entries) for shard in one) == len(entries) == 14
    assert all(len(shard.entries) <= 4 for shard in one)
