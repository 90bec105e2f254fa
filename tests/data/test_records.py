"""Prepared sets: what is written is read, by us and by TFDS, and what is not there is said in one line."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

import magicvideo_jax
from magicvideo_jax.core.class_names import ClassNames
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.data.frame_choice import FrameChoice, choose_whole
from magicvideo_jax.data.record_examples import FromRecord, captions_of, sub_range
from magicvideo_jax.data.records import (
    frame_features,
    from_png,
    latent_features,
    open_records,
    shard_path,
    to_png,
    write_metadata,
    write_records,
)
from magicvideo_jax.data.tokenizer import CaptionTokenizer

EMBEDDED = Path(magicvideo_jax.__file__).parent / "embedded" / "image"


def record(i: int, frames: int = 4) -> dict:
    rng = np.random.default_rng(i)
    latents = rng.standard_normal((frames, 2, 2, 8)).astype(np.float16)
    return {
        "name": f"clip{i}.mp4",
        "captions": ["one", "two"][: i % 3],
        "fps": np.float32(8),
        "latents": latents,
    }


def write(folder, lengths=(3, 2), split="train"):
    features, number = latent_features((4, 2, 2, 8)), 0
    folder.mkdir(exist_ok=True)
    for shard, length in enumerate(lengths):
        records = [record(number + i) for i in range(length)]
        number += write_records(shard_path(folder, split, shard, len(lengths)), records, features)
    write_metadata(folder, features, {split: lengths}, "A test.")
    return folder


def test_records_come_back_as_they_were(tmp_path):
    found = open_records(write(tmp_path / "set"))
    assert len(found) == 5
    for i in range(5):
        expected = record(i)
        np.testing.assert_array_equal(found[i]["latents"], expected["latents"])
        assert found[i]["latents"].dtype == np.float16
        assert captions_of(found[i]) == expected["captions"]
        assert (found[i]["name"].decode(), found[i]["fps"]) == (expected["name"], 8)


def test_tfds_reads_a_set_without_us(tmp_path):
    builder = tfds.builder_from_directory(str(write(tmp_path / "set")))
    assert builder.info.splits["train"].num_examples == 5
    assert builder.info.features["latents"].shape == (4, 2, 2, 8)
    assert len(builder.as_data_source("train")) == 5


def test_a_shard_follows_from_its_records_alone(tmp_path):
    one, other = write(tmp_path / "one"), write(tmp_path / "other")
    for path in sorted(one.iterdir()):
        assert path.read_bytes() == (other / path.name).read_bytes(), path.name


def test_a_shard_may_be_empty(tmp_path):
    assert len(open_records(write(tmp_path / "set", lengths=(2, 0, 1)))) == 3


def test_frames_are_lossless(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    path = shard_path(tmp_path, "train", 0, 1)
    write_records(
        path,
        [{"name": "a", "captions": [], "fps": 8.0, "frames": to_png(frames)}],
        frame_features(),
    )
    write_metadata(tmp_path, frame_features(), {"train": [1]}, "A test.")
    read = open_records(tmp_path)[0]
    np.testing.assert_array_equal(from_png(read["frames"]), frames)
    example = FromRecord(frames=2, scaling=1.0)(read, np.random.default_rng(0))
    assert example["pixels"].shape == (2, 16, 16, 3)


@pytest.mark.parametrize(
    ("spoil", "split", "said"),
    [
        (lambda folder: None, "test", "there is no split test; there is train"),
        (lambda folder: (folder / "dataset_info.json").unlink(), "train", "no TFDS data set there"),
        (
            lambda folder: (folder / "dataset_info.json").write_text("{"),
            "train",
            "no TFDS data set there",
        ),
        (
            lambda folder: shard_path(folder, "train", 1, 2).unlink(),
            "train",
            "-00001-of-00002 is missing",
        ),
        (
            lambda folder: shard_path(folder, "train", 1, 2).write_bytes(b"junk" * 99),
            "train",
            "record 3 cannot be read",
        ),
    ],
)
def test_what_is_not_a_data_set_is_said_in_one_line(tmp_path, spoil, split, said):
    folder = write(tmp_path / "set")
    spoil(folder)
    with pytest.raises(UserError, match=said) as caught:
        open_records(folder, split, argument="config.data.sources")[3]
    assert str(caught.value).startswith(f"config.data.sources={folder}")
    assert "\n" not in str(caught.value)


def test_a_lower_frame_rate_is_every_kth_frame_of_a_part():
    rng = np.random.default_rng(0)
    for _ in range(200):
        which = sub_range(23, 8, rng)
        places = range(23)[which]
        assert len(places) == 8
        assert 1 <= which.step <= 3
    assert sub_range(8, 8, rng) == slice(0, 8, 1)
    assert len(range(9)[sub_range(9, 1, rng)]) == 1


@pytest.mark.parametrize("choice", [one for one in FrameChoice if one is not FrameChoice.PART])
def test_whole_clips_are_chosen_from_in_lfdms_ways(choice):
    rng = np.random.default_rng(0)
    drawn = np.stack([choose_whole(choice, 101, 11, rng) for _ in range(200)])
    assert (np.diff(drawn) >= 0).all()
    assert (drawn[:, 0] == 0).all()
    even = np.arange(0, 101, 10)
    match choice:
        case FrameChoice.UNIFORM:
            np.testing.assert_array_equal(drawn, np.tile(even, (200, 1)))
        case FrameChoice.RANDOM:
            assert (drawn[:, -1] == 100).all()
            assert np.abs(drawn - even).max() == 9
        case _:
            assert np.abs(drawn - even).max() > 20
    np.testing.assert_array_equal(choose_whole(FrameChoice.RANDOM, 11, 11, rng), np.arange(11))


def test_a_record_that_does_not_fit_is_named():
    rng = np.random.default_rng(0)
    with pytest.raises(UserError, match=r"record clip2\.mp4: a clip of 4 frames: give config"):
        FromRecord(5, 1.0)(record(2), rng)
    read = FromRecord(4, 1.0, ClassNames(("up", "down")))
    with pytest.raises(UserError, match=r"record clip1\.mp4: .*caption=one: no class"):
        read(record(1), rng)


def test_an_example_samples_its_latents_and_says_its_rate():
    found = record(2, frames=23)
    make = FromRecord(
        frames=8, scaling=0.5, tokenizer=CaptionTokenizer(EMBEDDED / "tokenizer", length=6)
    )
    example = make(found, np.random.default_rng(1))
    assert example["latents"].shape == (8, 2, 2, 4)
    assert example["fps"] in np.float32([8, 4, 8 / 3])
    assert example["ids"].shape == (6,)
    again = make(found, np.random.default_rng(1))
    np.testing.assert_array_equal(example["latents"], again["latents"])
    certain = {
        **found,
        "latents": np.concatenate([found["latents"][..., :4], np.full((23, 2, 2, 4), -30)], -1),
    }
    mean = make(certain, np.random.default_rng(1))["latents"] / 0.5
    which = next(
        range(23)[a : a + 7 * s + 1 : s]
        for s in (1, 2, 3)
        for a in range(23 - 7 * s)
        if np.allclose(found["latents"][a : a + 7 * s + 1 : s, ..., :4], mean, atol=1e-3)
    )
    assert len(which) == 8


def test_sets_of_other_people_are_read_by_their_usual_names():
    video = np.zeros((5, 8, 8, 3), np.uint8)
    example = FromRecord(frames=2, scaling=1.0)(
        {"video": video, "caption": b"a cat"}, np.random.default_rng(0)
    )
    assert example["pixels"].shape == (2, 8, 8, 3)
    picture = FromRecord(frames=1, scaling=1.0)(
        {"image": video[0], "text": "a cat"}, np.random.default_rng(0)
    )
    assert picture["pixels"].shape == (1, 8, 8, 3)
    assert captions_of({"caption": b"a cat"}) == captions_of({"text": "a cat"}) == ["a cat"]
    with pytest.raises(UserError, match="need latents, frames, or uint8 pixels"):
        FromRecord(frames=1, scaling=1.0)({"mel": video}, np.random.default_rng(0))
