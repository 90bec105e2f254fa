"""PyTorch's files are read without PyTorch, bit for bit, and hostile ones are refused in one line."""

import io
import pickle
import random
import struct
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.weights.tensor_files import open_tensors
from magicvideo_jax.weights.torch_files import pickle_machine

State = dict[str, torch.Tensor]
TYPES = (
    *(torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
)


class Inner(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 2)
        self.norm = torch.nn.BatchNorm2d(4)
        self.register_buffer("offset", torch.randn(3).half())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x)) + self.offset.sum()


class Outer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.Sequential(Inner(), torch.nn.ReLU())
        self.scale = torch.nn.Parameter(torch.randn(()))
        self.flags = [1, 2]
        self.name = "outer"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x) * self.scale + len(self.flags)


def every_tensor() -> State:
    """All types, and the ways in which a tensor is a view of a storage."""
    row = torch.randn(60)
    marked, parameter = torch.randn(3), torch.nn.Parameter(torch.randn(3))
    marked.note = parameter.note = "attributes are not kept"
    return {
        **{f"of.{dtype}": (100 * torch.randn(3, 5)).to(dtype) for dtype in TYPES},
        "shared": row[:12].view(3, 4),
        "offset": row[7:31:2].view(3, 4),
        "transposed": row.view(3, 4, 5).permute(2, 0, 1),
        "expanded": torch.randn(1, 4).expand(3, 4),
        "number": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "marked": marked,
        "marked parameter": parameter,
        "parameter": torch.nn.Parameter(torch.randn(2)),
    }


def save_zip(path: Path) -> State:
    torch.save(every_tensor() | {"epoch": 3, "size": torch.Size([2])}, path)
    return torch.load(path)


def save_legacy(path: Path) -> State:
    torch.save(every_tensor(), path, _use_new_zipfile_serialization=False)
    return torch.load(path)


def save_nested(path: Path) -> State:
    torch.save({"state_dict": Outer().state_dict(), "optimizer": [{"lr": 0.1}]}, path)
    return torch.load(path)["state_dict"]


def save_script(path: Path) -> State:
    torch.jit.save(torch.jit.script(Outer().eval()), path)
    return torch.jit.load(path).state_dict()


FORMS = (save_zip, save_legacy, save_nested, save_script)


@pytest.mark.parametrize("save", FORMS)
def test_tensors_equal_torchs_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Callable[[Path], State]
):
    torch.manual_seed(0)
    expected = {
        key: value.detach().view(torch.int16).numpy()
        if value.dtype == torch.bfloat16
        else value.detach().numpy()
        for key, value in save(tmp_path / "w.pt").items()
        if isinstance(value, torch.Tensor)
    }
    monkeypatch.setitem(sys.modules, "torch", None)
    found = open_tensors(tmp_path / "w.pt")
    assert found.keys() == expected.keys()
    for key, tensor in found.items():
        array = tensor.read()
        assert array.shape == tensor.shape == expected[key].shape, key
        assert array.tobytes() == expected[key].tobytes(), key


def pickles_that_run(marker: Path) -> dict[str, bytes]:
    """Pickles of every kind that would create a file."""
    call = f"open({str(marker)!r}, 'w')"

    class Reduce:
        def __reduce__(self):
            return eval, (call,)

    text = call.encode()
    return {
        **{f"protocol {n}": pickle.dumps({"a": Reduce()}, n) for n in range(6)},
        "INST": b"(S'" + text.replace(b"'", b'"') + b"'\nibuiltins\neval\n.",
        "OBJ": b"(cbuiltins\neval\nS'" + text.replace(b"'", b'"') + b"'\no.",
        "NEWOBJ": b"\x80\x02cbuiltins\neval\nX"
        + struct.pack("<I", len(text))
        + text
        + b"\x85\x81.",
        "a name that is a program": b"\x80\x04\x8c\x08builtins\x8c\x04evalX"
        + struct.pack("<I", len(text))
        + text
        + b"\x93\x85R.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93X"
        + struct.pack("<I", len(text))
        + text
        + b"\x85R.",
        "torch's own": b"\x80\x02ctorch.hub\nload\nX"
        + struct.pack("<I", len(text))
        + text
        + b"\x85R.",
        "a tensor's attribute": b"\x80\x04\x8c\x0ctorch._utils\x8c\x12_rebuild_tensor.os\x93.",
        "EXT": b"\x80\x02\x82\x01.",
        "PERSID": b"P" + text + b"\n.",
    }


def zipped(data: bytes, **members: bytes) -> bytes:
    """A zip archive of torch's form around a pickle."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, value in ({"data.pkl": data} | members).items():
            archive.writestr(f"archive/{name}", value)
    return content.getvalue()


def legacy(data: bytes) -> bytes:
    """A file of torch's older form around a pickle."""
    head = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
    return head + data + pickle.dumps([], 2)


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as error:
        open_tensors(path)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value)


@pytest.mark.parametrize("form", [zipped, legacy, bytes], ids=["zip", "legacy", "bare"])
def test_nothing_in_a_pickle_runs(tmp_path: Path, form: Callable[[bytes], bytes]):
    path, marker = tmp_path / "w.pt", tmp_path / "ran"
    for name, content in pickles_that_run(marker).items():
        path.write_bytes(form(content))
        message = refusal(path)
        assert not marker.exists(), name
        print(f"{name}: {message.removeprefix(f'{path}: ')}")


def tensor_of(shape: tuple[int, ...], strides: tuple[int, ...], start: int = 0) -> bytes:
    """A pickle of one tensor `a`, a view of a storage of four numbers."""

    class Storage:
        pass

    class View:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (Storage(), start, shape, strides, False, {})

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            if isinstance(obj, Storage):
                return "storage", torch.FloatStorage, "0", "cpu", 4
            return None

    content = io.BytesIO()
    Pickler(content, 2).dump({"a": View()})
    return content.getvalue()


def test_what_is_only_announced_gets_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pickle_machine, "MOST_OPERATIONS", 3500)
    path = tmp_path / "w.pt"
    numbers = {"data/0": np.arange(4, dtype=np.float32).tobytes()}
    path.write_bytes(zipped(tensor_of((2, 2), (2, 1)), **numbers))
    assert open_tensors(path)["a"].read().tolist() == [[0, 1], [2, 3]]
    compressed = io.BytesIO()
    with zipfile.ZipFile(compressed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", tensor_of((2,), (1,)))
        archive.writestr("archive/data/0", bytes(50_000_000))
    contents = {
        "more rows than there are": zipped(tensor_of((3, 2), (2, 1)), **numbers),
        "a start behind the end": zipped(tensor_of((1,), (1,), 4), **numbers),
        "one number a trillion times": zipped(tensor_of((10**6, 10**6), (0, 0)), **numbers),
        "a negative stride": zipped(tensor_of((2,), (-1,), 1), **numbers),
        "a text of 2^60": zipped(b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b"a."),
        "bytes of 2^31 in the older form": legacy(b"\x80\x03B" + struct.pack("<I", 2**31) + b"a."),
        "a number of 2^31 bytes": zipped(b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"a."),
        "a place of 2^32 in the memo": zipped(b"\x80\x02]r\xff\xff\xff\xff."),
        "no end": zipped(b"\x80\x02" + b"]0" * 2_000),
        "marks under values": zipped(b"\x80\x02" + b"(" * 1000 + b"t" * 1000 + b"."),
        "depth": zipped(b"\x80\x02)" + b"\x85" * 3000 + b"}Na."),
        "compressed": compressed.getvalue(),
    }
    for name, content in contents.items():
        path.write_bytes(content)
        tracemalloc.start()
        message = refusal(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        print(f"{name}: {message.removeprefix(f'{path}: ')}")
        assert peak < 1e6, f"{name}: {peak / 1e6:.0f} MB"


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Some bytes changed, left out, doubled or cut off."""
    changed = bytearray(content)
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(len(changed))
        match draw.randrange(5):
            case 0:
                changed[at] ^= 1 << draw.randrange(8)
            case 1:
                changed[at] = draw.choice(b"\x00\xff(.)]}tRacBXqrh\x8a\x8b\x94")
            case 2:
                del changed[at : at + draw.randint(1, 40)]
            case 3:
                changed[at:at] = changed[max(at - 30, 0) : at]
            case 4 if draw.random() < 0.2:
                del changed[at:]
        if not changed:
            return b""
    return bytes(changed)


def test_mutated_files_are_refused_in_one_line(tmp_path: Path):
    """300 refusals. Some mutations change only numbers or names, and those files are read."""
    draw, path = random.Random(0), tmp_path / "w.pt"
    contents = []
    for save in FORMS:
        torch.manual_seed(0)
        save(path)
        contents.append(path.read_bytes())
    messages, read = [], 0
    tracemalloc.start()
    while len(messages) < 300:
        path.write_bytes(mutated(draw.choice(contents), draw))
        try:
            for tensor in open_tensors(path).values():
                tensor.read()
            read += 1
        except UserError as error:
            messages.append(str(error))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"{len(messages)} refused, {read} read, {peak / 1e6:.1f} MB")
    assert all(text.startswith(f"{path}: ") and "\n" not in text for text in messages)
    assert peak < 20e6
