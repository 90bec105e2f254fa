"""NumPy's archives of arrays (`.npz`), which hold no code: arrays of objects are refused."""

import zipfile
from pathlib import Path

import numpy as np

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.weights.tensors import Stored, Tensors

NPZ = ".npz"
_NAMES = {"float32": "F32", "float16": "F16", "float64": "F64", "int64": "I64", "int32": "I32"}
_BROKEN = (
    ValueError,
    EOFError,
    zipfile.BadZipFile,
    NotImplementedError,
    LookupError,
    OverflowError,
)


def open_npz(path: Path) -> Tensors:
    """The arrays of a file by name; the headers are read. Errors: `UserError` if it is not whole."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                name.removesuffix(".npy"): _stored(path, archive, name)
                for name in archive.namelist()
            }
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except _BROKEN as error:
        raise UserError(f"{path}: not a whole file of NumPy's arrays") from error


def _stored(path: Path, archive: zipfile.ZipFile, name: str) -> Stored:
    with archive.open(name) as member:
        version = np.lib.format.read_magic(member)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read_header(member)
    # The size that the archive gives is what reading it takes, compressed or not.
    size = dtype.itemsize * int(np.prod(shape, dtype=object))
    if dtype.hasobject or size > archive.getinfo(name).file_size:
        raise ValueError("no numbers, or fewer than its header says")

    def read() -> np.ndarray:
        try:
            with np.load(path, allow_pickle=False) as file:
                return file[name.removesuffix(".npy")]
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}") from error
        except _BROKEN as error:
            raise UserError(f"{path}: {name} is not whole") from error

    return Stored(shape, _NAMES.get(dtype.name, dtype.name), read)
