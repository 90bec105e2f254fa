"""What the names in PyTorch's files mean: storages, tensors and the containers that hold them, as data.

A tensor is a view of a storage, a row of numbers that lies elsewhere in the file.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from magicvideo_jax.weights.torch_files.pickle_machine import Inert, PickleName

# What published checkpoints mention beside their weights: classes as keys of dictionaries, and
# scores as NumPy scalars.
INERT = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "_codecs.encode",
    "argparse.Namespace",
    "torch.device",
    "torch.Size",
    "torch.serialization._get_layout",
    "torch.Tensor",
    "torch.nn.parameter.Parameter",
    "collections.Counter",
)

_TYPES = (
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
)
"""Types that checkpoints mention, in their configurations or of 8-bit floats."""


class TensorKind(NamedTuple):
    """A type of numbers: safetensors' name of it, and NumPy's."""

    name: str
    numpy: np.dtype[Any] | None
    """None for types that are recognised and not read."""
    size: int


def _kind(name: str, numpy: Any) -> TensorKind:
    dtype = np.dtype(numpy)
    return TensorKind(name, dtype, dtype.itemsize)


_KINDS = {
    "Float": _kind("F32", "<f4"),
    "Half": _kind("F16", "<f2"),
    "BFloat16": _kind("BF16", ml_dtypes.bfloat16),
    "Double": _kind("F64", "<f8"),
    "Long": _kind("I64", "<i8"),
    "Int": _kind("I32", "<i4"),
    "Short": _kind("I16", "<i2"),
    "Char": _kind("I8", "i1"),
    "Byte": _kind("U8", "u1"),
    "Bool": _kind("BOOL", "?"),
    "ComplexFloat": _kind("C64", "<c8"),
    "ComplexDouble": _kind("C128", "<c16"),
}
_LARGEST = 2**62
_BYTES = TensorKind("bytes", None, 1)
"""The untyped storage of newer types, such as 8-bit floats."""


class TorchStorage(NamedTuple):
    """A row of numbers in a file, or a view of one."""

    key: str
    kind: TensorKind
    start: int
    """First number of a view of another storage."""


class TorchTensor(NamedTuple):
    """A view of a storage, with strides counted in numbers."""

    storage: TorchStorage
    kind: TensorKind
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def span(self) -> int:
        """Numbers from its first to its last in the storage."""
        if 0 in self.shape:
            return 0
        return 1 + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))


class SparseTensor:
    """A tensor that is not dense."""


def torch_storage(identifier: Any) -> TorchStorage:
    """The storage that a persistent identifier describes."""
    match identifier:
        case ("storage", kind, str(key), _, int(count), *view):
            kind = kind.call() if isinstance(kind, PickleName) else None
            if not isinstance(kind, TensorKind) or count < 0:
                raise ValueError("no storage")
            match view:
                case [] | [None]:
                    return TorchStorage(key, kind, 0)
                case [(_, int(start), int(size))] if start >= 0 and size >= 0:
                    return TorchStorage(key, kind, start)
    raise ValueError("no storage")


def _tensor(storage: Any, start: Any, shape: Any, strides: Any, *_: Any) -> TorchTensor:
    """The tensor that torch's `_rebuild_tensor_v2` would make."""
    if not isinstance(storage, TorchStorage) or not isinstance(shape, tuple) or len(shape) > 32:
        raise ValueError("no tensor")
    numbers = (start, *shape, *strides)
    if len(shape) != len(strides) or any(
        type(x) is not int or not 0 <= x < _LARGEST for x in numbers
    ):
        raise ValueError("no tensor")
    return TorchTensor(storage, storage.kind, storage.start + start, shape, tuple(strides))


def _newer_tensor(
    storage: Any,
    start: Any,
    shape: Any,
    strides: Any,
    gradient: Any,
    hooks: Any,
    kind: Any,
    *_: Any,
) -> TorchTensor:
    """The tensor that torch's `_rebuild_tensor_v3` would make, of a type that is not read."""
    found = _tensor(storage, start, shape, strides)
    kind = kind.call() if isinstance(kind, PickleName) else None
    return found._replace(kind=kind if isinstance(kind, TensorKind) else _BYTES)


def _with_attributes(rebuild: Any, _: Any, arguments: Any, *__: Any) -> Any:
    """The tensor of torch's `_rebuild_from_type_v2`, without the attributes that Python code gave it."""
    if not isinstance(rebuild, PickleName):
        raise ValueError("no tensor")
    return rebuild.call(*arguments)


def _ordered(*given: Any) -> dict[Any, Any]:
    """The content of an `OrderedDict`, of which Python 2 saved the pairs."""
    pairs = given[0] if given else []
    content = {key: value for key, value in pairs if isinstance(key, str)}
    pairs.clear()  # so that each pair costs time once, however often the list is named
    return content


def _inert(*_: Any) -> Inert:
    return Inert()


def _same(value: Any, *_: Any) -> Any:
    return value


_MEANINGS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(INERT, _inert),
    **{f"torch.{name}Storage": functools.partial(_same, kind) for name, kind in _KINDS.items()},
    **dict.fromkeys(
        ("torch.storage.UntypedStorage", "torch.storage._UntypedStorage"),
        functools.partial(_same, _BYTES),
    ),
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _newer_tensor,
    "torch._utils._rebuild_parameter": _same,
    "torch._utils._rebuild_parameter_with_state": _same,
    "torch._tensor._rebuild_from_type_v2": _with_attributes,
    "torch._utils._rebuild_sparse_tensor": lambda *_: SparseTensor(),
    "torch._utils._rebuild_sparse_csr_tensor": lambda *_: SparseTensor(),
    "collections.OrderedDict": _ordered,
    **{
        f"torch.jit._pickle.{name}": _same
        for name in (
            "build_intlist",
            "build_doublelist",
            "build_boollist",
            "build_tensorlist",
            "restore_type_tag",
        )
    },
}


def torch_meaning(name: str) -> Callable[..., Any] | None:
    """What makes data of the arguments that a pickle gives to a name; None for names that are no data's."""
    if name.startswith("__torch__."):  # a class of TorchScript
        return _inert
    if name.startswith("torch.") and (kind := name.removeprefix("torch.")) in _TYPES:
        return functools.partial(_same, TensorKind(kind, None, 1))
    return _MEANINGS.get(name)
