"""Prepared clips on disk: a TFDS data set of ArrayRecord shards, written and read without TensorFlow.

A record holds `name`, `captions` (none or several), `fps`, and either
    latents  float16 (t h w 2c)   mean and log-variance of the VAE's q(z | x), unscaled, channels one behind the other
    text_states float16 (n l d)   if asked for, beside latents: the states of a text encoder for each caption
    frames   t PNG files          what the VAE stages learn from, and sets whose frame rate is chosen when they are read
"""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from jaxtyping import Int, UInt8
from PIL import Image
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from magicvideo_jax.core.errors import UserError

DATASET, VERSION = "clips", "1.0.0"
TRAIN, VALIDATION = "train", "validation"
SETTINGS = "prepare.json"
"""Beside the data: what the set was made with, whose latents it holds."""
METADATA = "dataset_info.json"
"""What TFDS reads first, and is written last."""
SIZES = "sizes.json"
"""Beside the data of several sizes: by split, which of them each record has, as a number."""

Record = Mapping[str, Any]


def latent_features(
    shape: tuple[int, int | None, int | None, int], text: tuple[int, int] | None = None
) -> tfds.features.FeaturesDict:
    """Of a set of latents; `shape` is (t h w 2c), h and w None where clips differ in them, and `text` (l d) of
    a caption's states, where they are kept."""
    return _features(
        latents=_half(shape), **({} if text is None else {"text_states": _half((None, *text))})
    )


def frame_features() -> tfds.features.FeaturesDict:
    """Of a set of frames."""
    return _features(
        frames=tfds.features.Sequence(tfds.features.Tensor(shape=(), dtype=np.object_))
    )


def _half(shape: tuple[int | None, ...]) -> tfds.features.Tensor:
    """As bytes: TFDS would store each half-precision number as a float of four."""
    return tfds.features.Tensor(shape=shape, dtype=np.float16, encoding="bytes")


def _features(**content: Any) -> tfds.features.FeaturesDict:
    text = tfds.features.Text()
    return tfds.features.FeaturesDict(
        {"name": text, "captions": tfds.features.Sequence(text), "fps": np.float32, **content}
    )


def to_png(frames: UInt8[np.ndarray, "t h w 3"]) -> list[bytes]:
    """Each frame as a PNG file: lossless, and a frame can be had without those before it."""
    files = []
    for frame in frames:
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "PNG")
        files.append(file.getvalue())
    return files


def from_png(files: Sequence[bytes]) -> UInt8[np.ndarray, "t h w 3"]:
    """The frames again."""
    return np.stack(
        [np.asarray(Image.open(io.BytesIO(file), formats=["PNG"]).convert("RGB")) for file in files]
    )


def shard_path(folder: Path, split: str, shard: int, shards: int) -> Path:
    """Where TFDS looks for a shard."""
    return folder / f"{DATASET}-{split}.array_record-{shard:05d}-of-{shards:05d}"


def write_records(
    path: Path, records: Iterable[Record], features: tfds.features.FeaturesDict
) -> int:
    """One file of records, and how many there were."""
    serializer = ExampleSerializer(cast(Any, features.get_serialized_info()))
    number = 0
    # Groups of one: a record is read without its neighbours, as a shuffled order wants.
    writer = ArrayRecordWriter(str(path), "group_size:1")
    try:
        for record in records:
            example = serializer.get_tf_example(features.encode_example(record))
            # Deterministic: a map of fields else has an order of its own in every process.
            writer.write(example.SerializeToString(deterministic=True))
            number += 1
    finally:
        writer.close()
    return number


def write_metadata(
    folder: Path,
    features: tfds.features.FeaturesDict,
    shard_lengths: Mapping[str, Sequence[int]],
    description: str,
) -> None:
    """`dataset_info.json` and `features.json`, after which the folder is a data set."""
    splits = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=list(lengths),
            num_bytes=sum(
                shard_path(folder, split, i, len(lengths)).stat().st_size
                for i in range(len(lengths))
            ),
            filename_template=tfds.core.ShardedFileTemplate(
                data_dir=tfds.core.Path(folder),
                dataset_name=DATASET,
                split=split,
                filetype_suffix="array_record",
            ),
        )
        for split, lengths in shard_lengths.items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=str(folder),
        features=features,
        split_infos=splits,
        version=VERSION,
        description=description,
        check_data=False,  # it would read through TensorFlow
    )


class Records:
    """A split by index. What is damaged is named when it is met: a set may be too large to be read through first."""

    def __init__(self, named: str, source: Any):
        self._named, self._source = named, source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        try:
            return self._source[index]
        except Exception as error:  # array_record and TFDS have many, by kind of damage
            raise UserError(
                f"{self._named}: record {index} cannot be read ({_first_line(error)}): restore it"
            ) from error


class Chosen:
    """Some of the records of a split, by index."""

    def __init__(self, records: Records, which: Int[np.ndarray, "n"]):
        self._records, self._which = records, which

    def __len__(self) -> int:
        return len(self._which)

    def __getitem__(self, index: int) -> Record:
        return self._records[int(self._which[index])]


def by_size(
    records: Records, path: str | Path, split: str, *, argument: str = "data"
) -> list[Records | Chosen]:
    """The records of each size by themselves, of `records`, which are a split of `path`. Errors: `UserError` for a
    list of sizes that does not fit them."""
    sizes = tfds.core.Path(path) / SIZES
    if not sizes.exists():
        return [records]
    try:
        which = np.array(json.loads(sizes.read_text())[split], np.int32)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{argument}={path}: {SIZES} cannot be read ({_first_line(error)}): prepare anew"
        ) from error
    if which.shape != (len(records),):
        raise UserError(
            f"{argument}={path}: {SIZES} has {len(which)} records and split {split} {len(records)}"
        )
    return [Chosen(records, np.flatnonzero(which == size)) for size in np.unique(which)]


def splits_of(path: str | Path, *, argument: str = "data") -> tuple[str, ...]:
    """Names of the splits of a data set. Errors: `UserError` naming the argument where there is no data set."""
    return tuple(_builder(path, argument).info.splits)


def open_records(path: str | Path, split: str = TRAIN, *, argument: str = "data") -> Records:
    """A folder of `prepare`, or another TFDS data set of ArrayRecord files, here or at gs://.

    Errors: `UserError` names the argument where there is no data set, no such split, a file is missing, or it is of
    another kind.
    """
    named, builder = f"{argument}={path}", _builder(path, argument)
    if split not in builder.info.splits:
        there = ", ".join(builder.info.splits)
        raise UserError(f"{named}: there is no split {split}; there is {there or 'none'}")
    missing = [file for file in builder.info.splits[split].filepaths if not file.exists()]
    if missing:
        raise UserError(f"{named}: {missing[0].name} is missing: restore it, or run prepare again")
    try:
        return Records(f"{named}, split {split}", builder.as_data_source(split))  # pyright: ignore[reportCallIssue]
    except Exception as error:
        raise UserError(
            f"{named}: split {split} cannot be opened ({_first_line(error)})"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _builder(path: str | Path, argument: str) -> Any:
    try:
        return tfds.builder_from_directory(str(path))
    except Exception as error:  # TFDS has many, by kind of path and of damage
        raise UserError(
            f"{argument}={path}: no TFDS data set there (dataset_info.json, features.json): "
            "run prepare"
        ) from error
