"""Clips survive being written and read; what cannot be written is said in one line and leaves nothing behind."""

import os
import resource
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import pytest
from clip_reading import read_clip
from PIL import Image

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.data.drawn import shape_clips as shapes
from magicvideo_jax.media.clip_files import check_clip_target, clip_writer, save_video


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    moving = next(
        scene
        for scene in shapes.held_out_scenes(0, 70)
        if scene.truth.motion is shapes.Motion.RIGHT
    )
    return shapes.draw_clip(moving).pixels


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.mean((one.astype(float) - other) ** 2), 1e-9)))


@contextmanager
def files_at_most(size: int):
    """The kernel refuses to let a file grow further, as on a full disk, to Python and FFmpeg alike."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("fps", [8, 12.5, 23.976])
def test_mp4_keeps_frames_order_and_rate(tmp_path, clip, fps):
    save_video(clip, tmp_path / "new" / "clip.mp4", fps=fps)
    again, rate = read_clip(tmp_path / "new" / "clip.mp4")
    assert again.shape == clip.shape
    assert rate == pytest.approx(fps, rel=1e-3)
    assert psnr(again, clip) > 28  # of 33 dB that halving the colours' resolution leaves
    assert all(
        np.argmin([np.abs(frame.astype(int) - c).sum() for c in clip]) == i
        for i, frame in enumerate(again)
    )


def test_mp4_is_what_a_browser_plays(tmp_path, clip):
    save_video(clip, tmp_path / "clip.mp4", fps=8)
    with av.open(str(tmp_path / "clip.mp4")) as file:
        stream = file.streams.video[0]
        assert (stream.codec.name, stream.pix_fmt, stream.frames) == ("h264", "yuv420p", len(clip))
        assert float(stream.duration * stream.time_base) == pytest.approx(len(clip) / 8)
        assert stream.codec_context.colorspace == av.video.reformatter.Colorspace.ITU709
    data = (tmp_path / "clip.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 200, 0), (40, 60, 230), (128, 128, 128)])
def test_mp4_keeps_plain_colours(tmp_path, colour):
    plain = np.broadcast_to(np.array(colour, np.uint8), (2, 32, 32, 3)).copy()
    save_video(plain, tmp_path / "plain.mp4", fps=8)
    assert np.max(np.abs(read_clip(tmp_path / "plain.mp4")[0].astype(int) - plain)) <= 4


@pytest.mark.parametrize("size", [(1, 1), (15, 33), (64, 63)])
def test_odd_sizes_get_their_last_row_and_column_twice(tmp_path, size):
    grey = np.broadcast_to(
        np.arange(size[1], dtype=np.uint8)[:, None] * 3 + 40, (1, *size, 3)
    ).copy()
    save_video(grey, tmp_path / "odd.mp4", fps=8)
    (again,), _ = read_clip(tmp_path / "odd.mp4")
    assert again.shape == (size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
    assert np.max(np.abs(again[: size[0], : size[1]].astype(int) - grey[0])) <= 12


@pytest.mark.parametrize("fps", [8, 24])
def test_gif_keeps_frames_colours_and_rate(tmp_path, clip, fps):
    save_video(clip, tmp_path / "clip.gif", fps=fps)
    again, _ = read_clip(tmp_path / "clip.gif")
    assert again.shape == clip.shape
    assert psnr(again, clip) > 38
    with Image.open(tmp_path / "clip.gif") as file:
        assert file.info["loop"] == 0
        durations = []
        for place in range(file.n_frames):
            file.seek(place)
            durations.append(file.info["duration"])
    assert sum(durations) == pytest.approx(
        1000 * len(clip) / fps, abs=10
    )  # rounding does not add up


def test_equal_frames_of_a_gif_are_counted_by_their_time(tmp_path, clip):
    pauses = clip[[0, 1, 1, 1, 2, 3]]
    save_video(pauses, tmp_path / "pauses.gif", fps=10)
    with Image.open(tmp_path / "pauses.gif") as file:
        durations = []
        for place in range(file.n_frames):
            file.seek(place)
            durations.append(file.info["duration"])
    assert durations == [100, 300, 100, 100]


def test_folder_of_png_is_lossless_and_replaces_only_frames(tmp_path, clip):
    save_video(clip, tmp_path / "frames", fps=8)
    save_video(clip[:3], f"{tmp_path}/frames/", fps=8)
    names = sorted(file.name for file in (tmp_path / "frames").iterdir())
    assert names == ["frame_0000.png", "frame_0001.png", "frame_0002.png"]
    assert all(
        np.array_equal(Image.open(tmp_path / "frames" / n), c)
        for n, c in zip(names, clip, strict=False)
    )

    (tmp_path / "frames" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"frames/ holds thesis\.txt"):
        save_video(clip, tmp_path / "frames", fps=8)
    assert len(list((tmp_path / "frames").iterdir())) == 4
    assert os.listdir(tmp_path) == ["frames"]


@pytest.mark.parametrize("name", ["one.mp4", "one.gif", "one/"])
def test_a_single_frame_is_a_clip(tmp_path, clip, name):
    save_video(clip[:1], f"{tmp_path}/{name}", fps=8)
    if name != "one/":
        assert len(read_clip(tmp_path / name)[0]) == 1


@pytest.mark.parametrize("name", ["clip.avi", "v1.5", "clip.png"])
def test_unknown_ending_names_the_known_ones(tmp_path, clip, name):
    with pytest.raises(UserError, match=r"\.mp4 or \.gif, or in / for a folder"):
        save_video(clip, tmp_path / name, fps=8)


def test_what_is_no_clip_is_refused(tmp_path, clip):
    for fps in (0.0, -1.0, float("nan"), 1e6):
        with pytest.raises(UserError, match="fps="):
            save_video(clip, tmp_path / "clip.mp4", fps=fps)
    with pytest.raises(UserError, match="at least one"):
        save_video(clip[:0], tmp_path / "clip.mp4", fps=8)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "frames"])
def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, clip, name):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=f"file/{name} cannot be written: Not a directory"):
        save_video(clip, tmp_path / "file" / name, fps=8)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_one_line(tmp_path, clip):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(UserError, match="cannot be written: Permission denied"):
        save_video(clip, tmp_path / "closed" / "clip.mp4", fps=8)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif"])
def test_a_full_disk_leaves_the_earlier_clip_alone(tmp_path, clip, name, monkeypatch):
    monkeypatch.setattr("secrets.token_hex", lambda _: "0")
    (tmp_path / name).write_text("earlier")
    (tmp_path / f".{name}.0.part").symlink_to("/dev/full")
    with pytest.raises(
        UserError, match=f"{name} cannot be written: No space left on device"
    ) as error:
        save_video(clip, tmp_path / name, fps=8)
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "earlier"


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "frames"])
def test_a_write_cut_short_leaves_nothing(tmp_path, clip, name):
    with files_at_most(200), pytest.raises(UserError, match="cannot be written: File too large"):
        save_video(clip, tmp_path / name, fps=8)
    assert not list(tmp_path.iterdir())


def write_parts(parts, target: Path, *, ends=None) -> None:
    with clip_writer(target, fps=8) as write:
        for part in parts:
            write(part)
        if ends is not None:
            raise ends


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "frames"])
def test_an_interrupt_leaves_nothing(tmp_path, clip, name):
    with pytest.raises(KeyboardInterrupt):
        write_parts([clip], tmp_path / name, ends=KeyboardInterrupt())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "frames"])
def test_parts_of_a_clip_become_the_same_file(tmp_path, clip, name):
    save_video(clip, tmp_path / f"whole_{name}", fps=8)
    write_parts([clip[:5], clip[5:6], clip[6:]], tmp_path / f"parts_{name}")
    whole, parts = (
        [file.read_bytes() for file in sorted([path, *path.glob("*")]) if file.is_file()]
        for path in (tmp_path / f"whole_{name}", tmp_path / f"parts_{name}")
    )
    assert whole == parts


def test_parts_have_one_size_and_there_is_one(tmp_path, clip):
    with pytest.raises(UserError, match="give one size"):
        write_parts([clip, clip[:, :8]], tmp_path / "clip.mp4")
    with pytest.raises(UserError, match="at least one frame"):
        write_parts([], tmp_path / "clip.mp4")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("file/clip.mp4", "file/clip.mp4 cannot be written: Not a directory"),
        ("file/deep/er/frames", "frames cannot be written: Not a directory"),
        ("clip.mp4", "clip.mp4 cannot be written: Is a directory"),
        ("clip.gif", "clip.gif cannot be written: Is a directory"),
        ("file", "file cannot be written: Not a directory"),
        ("notes", "notes/ holds thesis.txt, which is no frame"),
        ("clip.avi", r"\.mp4 or \.gif, or in / for a folder"),
    ],
)
def test_a_target_that_cannot_be_written_is_refused_before_there_is_a_clip(tmp_path, name, said):
    (tmp_path / "file").write_text("a file")
    for folder in ("clip.mp4", "clip.gif", "notes"):
        (tmp_path / folder).mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=said):
        check_clip_target(tmp_path / name, argument="--out")


@pytest.mark.parametrize("name", ["", " ", "gs://bucket/clip.mp4", "/"])
def test_a_target_that_is_no_local_path_names_the_argument(name):
    with pytest.raises(UserError, match="--out"):
        check_clip_target(name, argument="--out")


def test_a_home_folder_is_expanded(tmp_path, clip, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_video(clip[:1], "~/clips/12:30.mp4", fps=8)
    assert len(read_clip(tmp_path / "clips" / "12:30.mp4")[0]) == 1
