"""Prepared clips on disk: a TFDS data set of ArrayRecord shards, written and read without TensorFlow.

A record holds `name`, `captions` (none or several), `fps`, and either frames or latents:

    frames       t PNG files           for the VAE stages, and for frame rates chosen while reading
    latents      float16 (t h w 2c)    mean and log-variance of the VAE's q(z | x), unscaled
    text_states  float16 (n l d)       optional, with latents: a text encoder's states per caption
"""

import hashlib
import io
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from jaxtyping import Int, UInt8
from PIL import Image
from tensorflow_datasets.core.dataset_info import DatasetIdentity
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.files import atomic_write
from magicvideo_jax.core.paths import local_path

DATASET, VERSION = "clips", "1.0.0"
TRAIN, VALIDATION = "train", "validation"
SETTINGS = "prepare.json"
"""Settings file of `prepare`: options and the encoder's fingerprint."""
METADATA = "dataset_info.json"
"""The file that TFDS reads first; written last."""
SIZES = "sizes.json"
"""Sizes file of a set of several sizes: for each split, the index of each record's size."""

Record = Mapping[str, Any]


def latent_features(
    shape: tuple[int, int | None, int | None, int], text: tuple[int, int] | None = None
) -> tfds.features.FeaturesDict:
    """TFDS features of a set of latents.

    `shape` is (t h w 2c), with h and w None where clips differ in them; `text` is (l d) of a
    caption's states, where they are stored.
    """
    if text is None:
        return _features(latents=_half(shape))
    return _features(latents=_half(shape), text_states=_half((None, *text)))


def frame_features() -> tfds.features.FeaturesDict:
    """TFDS features of a set of frames."""
    return _features(
        frames=tfds.features.Sequence(tfds.features.Tensor(shape=(), dtype=np.object_))
    )


def _half(shape: tuple[int | None, ...]) -> tfds.features.Tensor:
    """A float16 tensor stored as bytes: TFDS would store every number in four."""
    return tfds.features.Tensor(shape=shape, dtype=np.float16, encoding="bytes")


def _features(**content: Any) -> tfds.features.FeaturesDict:
    text = tfds.features.Text()
    return tfds.features.FeaturesDict(
        {"name": text, "captions": tfds.features.Sequence(text), "fps": np.float32, **content}
    )


def to_png(frames: UInt8[np.ndarray, "t h w 3"]) -> list[bytes]:
    """Each frame as a PNG file: lossless, and readable without the frames before it."""
    files = []
    for frame in frames:
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "PNG")
        files.append(file.getvalue())
    return files


def from_png(files: Sequence[bytes]) -> UInt8[np.ndarray, "t h w 3"]:
    """Frames decoded from PNG files."""
    return np.stack(
        [np.asarray(Image.open(io.BytesIO(file), formats=["PNG"]).convert("RGB")) for file in files]
    )


def shard_path(folder: Path, split: str, shard: int, shards: int) -> Path:
    """The file name under which TFDS looks for a shard."""
    return folder / f"{DATASET}-{split}.array_record-{shard:05d}-of-{shards:05d}"


def write_records(
    path: Path,
    records: Iterable[Record],
    features: tfds.features.FeaturesDict,
    *,
    named: Path | None = None,
) -> int:
    """Write one file of records and return their number.

    Errors: `UserError` where the file (called `named`, if given) cannot be written.
    """
    serializer = ExampleSerializer(cast(Any, features.get_serialized_info()))
    number = 0
    with _record_writer(path, named or path) as write:
        for record in records:
            example = serializer.get_tf_example(features.encode_example(record))
            # Deterministic: a map of fields else has an order of its own in every process.
            write(example.SerializeToString(deterministic=True))
            number += 1
    return number


@contextmanager
def _record_writer(path: Path, named: Path) -> Iterator[Callable[[bytes], None]]:
    """A function that appends records; ArrayRecord's own errors become a line that names the file."""

    def guarded(act: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return act(*arguments)
        except (OSError, RuntimeError) as error:
            raise UserError(f"{named} cannot be written: {_first_line(error)}") from error

    # Groups of one: a record is read without its neighbours, as a shuffled order wants.
    writer = guarded(ArrayRecordWriter, str(path), "group_size:1")
    try:
        yield lambda record: guarded(writer.write, record)
    except BaseException:
        with suppress(RuntimeError):  # the first error is the one that counts
            writer.close()
        raise
    guarded(writer.close)


def write_metadata(
    folder: Path,
    features: tfds.features.FeaturesDict,
    shard_lengths: Mapping[str, Sequence[int]],
    description: str,
) -> None:
    """Write `dataset_info.json` and `features.json`, which make the folder a data set.

    A split of `shard_lengths` has the number of records of each of its shards. Errors: `UserError`
    where the files cannot be written; nothing half-written is left.
    """
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
    identity = DatasetIdentity(DATASET, tfds.core.Version(VERSION), str(folder), module_name="")
    info = tfds.core.DatasetInfo(builder=identity, features=features, description=description)
    info.set_file_format("array_record")
    info.set_splits(tfds.core.SplitDict(splits))
    try:
        with tempfile.TemporaryDirectory() as elsewhere:
            info.write_to_directory(elsewhere)
            files = {file.name: file.read_bytes() for file in Path(elsewhere).iterdir()}
    except OSError as error:
        raise UserError(
            f"{tempfile.gettempdir()} cannot be written ({error.strerror}): set TMPDIR"
        ) from error
    # What makes the folder a data set comes last.
    for name in sorted(files, key=lambda name: name == METADATA):
        with atomic_write(folder / name) as aside:
            aside.write_bytes(files[name])


class Records:
    """Records of a split by index.

    A damaged record is named when it is read: a set may be too large to be checked first.
    """

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
    """A selection of a split's records, by index."""

    def __init__(self, records: Records, which: Int[np.ndarray, "n"]):
        self._records, self._which = records, which

    def __len__(self) -> int:
        return len(self._which)

    def __getitem__(self, index: int) -> Record:
        return self._records[int(self._which[index])]


def by_size(
    records: Records, path: str | Path, split: str, *, argument: str = "data"
) -> list[Records | Chosen]:
    """Records grouped by size, for `records` that are a split of `path`.

    Errors: `UserError` for a list of sizes that does not fit them.
    """
    sizes = tfds.core.Path(dataset_path(path, argument=argument)) / SIZES
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


def dataset_path(path: str | Path, *, argument: str = "data") -> str:
    """A data set's folder: absolute, or an address at gs://. Errors: `UserError` of `local_path`."""
    text = str(path)
    return text if text.startswith("gs://") else str(local_path(text, argument=argument))


def splits_of(path: str | Path, *, argument: str = "data") -> tuple[str, ...]:
    """Names of the splits of a data set. Errors: `UserError` where there is no data set."""
    return tuple(_builder(path, argument).info.splits)


def settings_file(path: str | Path, *, argument: str = "data") -> Any:
    """Settings file of a set of `prepare`; sets of other origin have none. A path, local or gs://."""
    return tfds.core.Path(dataset_path(path, argument=argument)) / SETTINGS


def open_records(path: str | Path, split: str = TRAIN, *, argument: str = "data") -> Records:
    """Open a data set of `prepare`, or another TFDS set of ArrayRecord files, local or at gs://.

    Errors: `UserError` names the argument where there is no data set, no such split or no record
    in it, a file is missing, or it is of another kind.
    """
    named, builder = f"{argument}={path}", _builder(path, argument)
    if split not in builder.info.splits:
        there = ", ".join(builder.info.splits)
        raise UserError(f"{named}: there is no split {split}; there is {there or 'none'}")
    try:
        missing = [file for file in builder.info.splits[split].filepaths if not file.exists()]
    except Exception as error:  # a bucket has errors of its own
        raise UserError(f"{named} cannot be read ({_first_line(error)})") from error
    if missing:
        raise UserError(f"{named}: {missing[0].name} is missing: restore it, or run prepare again")
    if not builder.info.splits[split].num_examples:
        raise UserError(f"{named}: split {split} holds no records: give another split or set")
    try:
        return Records(f"{named}, split {split}", builder.as_data_source(split))  # pyright: ignore[reportCallIssue]
    except Exception as error:
        raise UserError(
            f"{named}: split {split} cannot be opened ({_first_line(error)})"
        ) from error


def records_identity(path: str | Path) -> str | None:
    """A checksum of what a data set says about itself: its settings, splits and features; None where there is no set.
    A set that was moved or copied keeps it."""
    files = [tfds.core.Path(path) / name for name in (METADATA, "features.json", SETTINGS)]
    try:
        if not files[0].exists():
            return None
        said = [file.read_bytes() if file.exists() else b"" for file in files]
    except OSError:
        return None
    return hashlib.sha256(b"\0".join(said)).hexdigest()


def _builder(path: str | Path, argument: str) -> Any:
    folder = dataset_path(path, argument=argument)
    try:
        return tfds.builder_from_directory(folder)
    except Exception as error:  # TFDS has many, by kind of path and of damage
        reason = f" ({_first_line(error)})" if folder.startswith("gs://") else ""
        raise UserError(
            f"{argument}={path}: no TFDS data set there (dataset_info.json, features.json){reason}: "
            "run prepare"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
