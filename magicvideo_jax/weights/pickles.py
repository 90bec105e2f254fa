"""PyTorch's own files (`.ckpt`, `.pt`, `.bin`): pickles, of which only tensors and plain
containers are read.

torch reads them under `weights_only=True`: a pickle that names any other function or class is
refused before anything runs.
"""

import math
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.weights.tensors import NUMBERS, Mapped, Stored, Tensors

# What published checkpoints mention beside their weights: classes as keys of dictionaries, and
# scores as NumPy scalars. A class of ours that does nothing stands in for each: nothing of theirs
# is imported or run.
INERT = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "_codecs.encode",
    "argparse.Namespace",
)

_WRAPPERS = ("state_dict", "ema")
"""Entries that hold the weights of a checkpoint which holds more: Lightning's, and LaVie's average."""


class Inert:
    """Stands where a checkpoint mentions a class or function of `INERT`; takes any arguments and
    keeps none."""

    def __init__(self, *_: object):
        pass

    def __setstate__(self, _: object) -> None:
        pass


def open_pickle(path: Path) -> Tensors:
    """The tensors of a checkpoint. `UserError` if torch is not here, the file is not whole, or it
    names other code."""
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path}: reading PyTorch's own files needs PyTorch: pip install torch"
        ) from error

    names = {
        torch.float32: "F32",
        torch.float16: "F16",
        torch.bfloat16: "BF16",
        torch.float64: "F64",
        torch.int64: "I64",
        torch.int32: "I32",
    }
    file = Mapped(lambda: _state_of(path))

    def stored(key: str) -> Stored:
        tensor = file.handle[key]
        shape, dtype = (
            tuple(tensor.shape),
            names.get(tensor.dtype, str(tensor.dtype).removeprefix("torch.")),
        )

        def read() -> np.ndarray:
            size = math.prod(shape) * np.dtype(NUMBERS[dtype]).itemsize
            found = file.take(size)[key].detach()
            # A copy: the memory of `found` is the file. numpy has no bfloat16 that torch would
            # know.
            return found.float().numpy() if dtype == "BF16" else found.clone().numpy()

        return Stored(shape, dtype, read)

    return {key: stored(key) for key in file.handle}


def _state_of(path: Path) -> dict[str, Any]:
    """The tensors of a file, memory-mapped if it has torch's zip form (that of every version
    since 1.6)."""
    import torch

    try:
        mapped = zipfile.is_zipfile(path)
        if mapped and _is_torchscript(path):
            raise UserError(
                f"{path}: a TorchScript archive, which holds code: save torch.jit.load(FILE).state_dict() "
                "of it, or get a .safetensors file"
            )
        with torch.serialization.safe_globals([(Inert, name) for name in INERT]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        # torch's own text advises weights_only=False, which is the one thing not to do.
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise UserError(
            f"{path}: it names {foreign.group(1)}, which is no tensor and could run code; save its "
            "state_dict alone, or get a .safetensors file"
            if foreign
            else f"{path}: not a whole PyTorch checkpoint (its pickle holds more than tensors, or is broken)"
        ) from error
    except (
        RuntimeError,
        EOFError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        zipfile.BadZipFile,
    ) as error:
        raise UserError(f"{path}: not a whole PyTorch checkpoint ({_first_line(error)})") from error
    while isinstance(content, Mapping) and (wrapper := _wrapper(content)):
        content = content[wrapper]
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds no weights by name, but {type(content).__name__}")
    state = {
        key: value
        for key, value in content.items()
        if isinstance(key, str) and isinstance(value, torch.Tensor)
    }
    inside = [str(key) for key, value in content.items() if isinstance(value, Mapping)]
    if not state and inside:
        raise UserError(
            f"{path}: holds no weights by name, but {', '.join(inside[:4])}, and no "
            f"{' or '.join(_WRAPPERS)}: save the weights alone"
        )
    if any(not tensor.layout == torch.strided for tensor in state.values()):
        raise UserError(f"{path}: holds sparse tensors; weights are dense")
    return state


def _is_torchscript(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _wrapper(content: Mapping[Any, Any]) -> str | None:
    return next((name for name in _WRAPPERS if isinstance(content.get(name), Mapping)), None)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
