"""A contact sheet shows the right frames in the right places, small enough for a README."""

import os

import numpy as np
import pytest
from PIL import Image, ImageFilter

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.data.drawn import shape_clips as shapes
from magicvideo_jax.media.contact_sheet import (
    GAP,
    MARGIN,
    PAPER,
    contact_sheet,
    moving_sheet,
    save_sheet,
)


def plain(levels: range, size: int = 64) -> np.ndarray:
    return np.stack([np.full((size, size, 3), level, np.uint8) for level in levels])


def middle(sheet: Image.Image, row: int, column: int, pitch: int = 128) -> int:
    """The level of a frame's middle, given the height of the rows."""
    x = MARGIN + column * (pitch + GAP) + pitch // 2
    return np.asarray(sheet)[MARGIN + row + pitch // 2, x, 0]


def test_rows_are_prompts_and_columns_frames_at_even_steps():
    sheet = contact_sheet([plain(range(16)), plain(range(100, 116))], ["one", "two"])
    assert sheet.width == 2 * MARGIN + 8 * 128 + 7 * GAP
    below = (sheet.height - 2 * MARGIN + GAP) // 2
    assert [middle(sheet, 0, column) for column in range(8)] == list(range(0, 16, 2))
    assert [middle(sheet, below, column) for column in range(8)] == list(range(100, 116, 2))


def test_a_moving_sheet_shows_every_clip_at_every_moment():
    sheet = moving_sheet([plain(range(3)), plain(range(100, 103))], ["one", "two"])
    assert len(sheet) == 3
    for moment in range(3):
        shown = Image.fromarray(sheet[moment])
        assert [middle(shown, 0, column) for column in range(2)] == [moment, 100 + moment]


def test_caption_stands_under_its_row():
    sheet = np.asarray(contact_sheet([plain(range(8))], ["a red circle moving left"]))
    under = sheet[MARGIN + 128 : -MARGIN]
    assert np.min(under) < 120
    assert np.all(under[:, -300:] == PAPER)  # the words stand on the left


def test_long_captions_are_broken_not_cut():
    short, long = (
        contact_sheet([plain(range(1))], [caption]) for caption in ("circle", "circle " * 8)
    )
    assert long.width == short.width
    assert long.height > short.height


def test_single_pictures_make_a_grid():
    sheet = contact_sheet([plain(range(i, i + 1)) for i in range(10)], ["x"] * 10)
    below = (sheet.height - 2 * MARGIN + GAP) // 2
    assert [middle(sheet, 0, column) for column in range(8)] == list(range(8))
    assert [middle(sheet, below, column) for column in range(2)] == [8, 9]


@pytest.mark.parametrize(("size", "shown"), [(64, 128), (48, 96), (100, 100), (256, 128)])
def test_frames_are_enlarged_by_whole_numbers_or_reduced(size, shown):
    assert (
        contact_sheet([plain(range(2), size)], ["x"], columns=2).width
        == 2 * MARGIN + 2 * shown + GAP
    )


def test_eight_rows_of_decoded_frames_are_well_under_300_kilobytes(tmp_path):
    rng = np.random.default_rng(0)
    clips = [shapes.draw_clip(scene) for scene in shapes.held_out_scenes(0, 8)]

    def decoded(pixels):  # drawn frames with a decoder's soft edges and texture
        noisy = np.clip(pixels + rng.normal(0, 3, pixels.shape), 0, 255).astype(np.uint8)
        return np.stack(
            [np.asarray(Image.fromarray(f).filter(ImageFilter.GaussianBlur(0.6))) for f in noisy]
        )

    sheet = contact_sheet(
        [decoded(clip.pixels) for clip in clips], [clip.caption for clip in clips]
    )
    save_sheet(sheet, tmp_path / "new" / "sheet.png")
    assert (tmp_path / "new" / "sheet.png").stat().st_size < 200_000
    with Image.open(tmp_path / "new" / "sheet.png") as again:
        error = np.asarray(again.convert("RGB")).astype(float) - np.asarray(sheet)
    assert np.sqrt(np.mean(error**2)) < 3
    assert os.listdir(tmp_path / "new") == ["sheet.png"]


def test_errors_are_named(tmp_path):
    with pytest.raises(UserError, match="2 clips, 1 captions"):
        contact_sheet([plain(range(2))] * 2, ["one"])
    with pytest.raises(UserError, match="0 clips"):
        contact_sheet([], [])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"sheet\.png cannot be written: Not a directory"):
        save_sheet(Image.new("RGB", (8, 8)), tmp_path / "file" / "sheet.png")
