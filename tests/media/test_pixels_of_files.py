"""What a file shows in a viewer is what is read: upright, over white, with all its grey levels."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.media.frame_reader import read_frames, read_timeline

RED, GREEN = (220, 40, 40), (0, 255, 0)


def first_frame(path, size=(16, 16)) -> np.ndarray:
    return read_frames(path, read_timeline(path), np.array([0]), [size])[0].astype(int)


def stored(orientation: int) -> Image.Image:
    """A picture that is red in the upper left quarter when it is turned as its EXIF says."""
    upright = np.zeros((16, 16, 3), np.uint8)
    upright[:8, :8] = (255, 0, 0)
    back = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }
    return Image.fromarray(np.ascontiguousarray(back[orientation]))


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_turned_upright(tmp_path, ending, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if ending == "jpg" else {"lossless": True} if ending == "webp" else {}
    stored(orientation).save(tmp_path / f"a.{ending}", exif=exif, **options)
    seen = first_frame(tmp_path / f"a.{ending}")
    assert seen[2, 2, 0] > 200
    assert max(seen[2, 13, 0], seen[13, 2, 0], seen[13, 13, 0]) < 60


def test_frames_of_an_animation_are_turned_too(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [stored(6), Image.new("RGB", (16, 16), (0, 0, 255))]
    for name, how in (("a.webp", {"lossless": True}), ("a.apng", {"format": "PNG"})):
        frames[0].save(
            tmp_path / name, save_all=True, append_images=frames[1:], duration=50, exif=exif, **how
        )
        assert first_frame(tmp_path / name)[2, 2, 0] > 200
        assert len(read_timeline(tmp_path / name).moments) == 2


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_picture_with_damaged_exif_is_shown_as_it_is(tmp_path):
    Image.new("RGB", (16, 16), RED).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*junk" * 3)
    np.testing.assert_allclose(first_frame(tmp_path / "a.jpg")[8, 8], RED, atol=4)


def test_the_second_view_of_a_phones_picture_is_no_second_frame(tmp_path):
    views = [Image.new("RGB", (32, 32), colour) for colour in (RED, GREEN)]
    views[0].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=views[1:])
    assert len(read_timeline(tmp_path / "a.jpg").moments) == 1


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format", "options"),
    [
        ("a.webm", "libvpx-vp9", "yuva420p", {"deadline": "realtime", "auto-alt-ref": "0"}),
        ("b.webm", "libvpx", "yuva420p", {"deadline": "realtime", "auto-alt-ref": "0"}),
        ("c.mov", "prores_ks", "yuva444p10le", {"profile": "4"}),
        ("d.mov", "qtrle", "argb", {}),
        ("e.mov", "png", "rgba", {}),
    ],
)
def test_a_transparent_movie_lies_over_white(tmp_path, name, codec, pixel_format, options):
    path = tmp_path / name
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=12, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 64, pixel_format
        for _ in range(6):
            frame = np.zeros((64, 64, 4), np.uint8)
            frame[:] = (*GREEN, 0)
            frame[16:48, 16:48] = (*RED, 255)
            shown = av.VideoFrame.from_ndarray(frame, format="rgba").reformat(format=pixel_format)
            file.mux(stream.encode(shown))
        file.mux(stream.encode())
    seen = first_frame(path, (32, 32))
    np.testing.assert_allclose(seen[2, 2], (255, 255, 255), atol=6)
    np.testing.assert_allclose(seen[16, 16], RED, atol=12)
    # Where both meet there is a mixture of red and white, never the green that is hidden.
    assert (seen[..., 1] - seen[..., 0] < 40).all()


@pytest.mark.parametrize(("dtype", "top"), [(np.uint16, 65535), (np.dtype(">u2"), 65535)])
def test_grey_pictures_of_16_bits_keep_their_levels(tmp_path, dtype, top):
    levels = np.linspace(0, top, 256).reshape(16, 16).astype(dtype)
    Image.fromarray(levels).save(tmp_path / "a.png", format="TIFF" if dtype != np.uint16 else None)
    seen = first_frame(tmp_path / "a.png")
    np.testing.assert_allclose(seen[..., 0], np.arange(256).reshape(16, 16), atol=1)
    assert (seen[..., 0] == seen[..., 2]).all()


@pytest.mark.parametrize("mode", ["I", "F"])
def test_what_has_more_than_16_bits_is_refused_with_a_reason(tmp_path, mode):
    Image.new(mode, (16, 16), 2**20).save(tmp_path / "a.png", format="TIFF")
    with pytest.raises(UserError, match="save it with 8 or 16 bits a channel"):
        first_frame(tmp_path / "a.png")


@pytest.mark.parametrize(
    "name", ["12:30.mp4", "http:x.mp4", "a%20b.mp4", "-x.mp4", "concat:a|b.mp4"]
)
def test_no_name_is_taken_for_an_address(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with av.open("plain.mp4", "w") as file:
        stream = file.add_stream("libx264", rate=12)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        file.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
        file.mux(stream.encode())
    (tmp_path / "plain.mp4").rename(tmp_path / name)
    assert first_frame(Path(name)).max() < 40
