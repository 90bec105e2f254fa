"""Weight files: kinds of numbers, shards, damage."""

import json
import random

import jax
import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.weights.param_sources import TensorParams
from magicvideo_jax.weights.tables.naming import Layout, TableRow
from magicvideo_jax.weights.tensor_files import find_weights, open_tensors
from magicvideo_jax.weights.tensors import Mapped
from magicvideo_jax.weights.writing.write_safetensors import write_safetensors

TABLE = (TableRow(r"(.*)", r"\1"),)
SHAPES = {
    "conv": {
        "kernel": jax.ShapeDtypeStruct((3, 3, 2, 4), "float32"),
        "bias": jax.ShapeDtypeStruct((4,), "float32"),
    },
    "dense": {"kernel": jax.ShapeDtypeStruct((5, 4), "float32")},
    "norm": {"scale": jax.ShapeDtypeStruct((4,), "float32")},
}
KEYS = {"conv.weight": (4, 2, 3, 3), "conv.bias": (4,), "dense.weight": (4, 5), "norm.weight": (4,)}


def _load(path):
    source, flat = TensorParams(TABLE, open_tensors(path), str(path)), flatten(SHAPES)
    source.match(flat, ())
    return {name: np.asarray(x) for name, x in source.read(flat, dict.fromkeys(flat))}


def _random(dtype=np.float32):
    rng = np.random.default_rng(0)
    return {key: rng.standard_normal(shape).astype(dtype) for key, shape in KEYS.items()}


def _same(ours, theirs):
    theirs = {key: np.asarray(x).astype(np.float32) for key, x in theirs.items()}
    return (
        np.array_equal(ours["conv.kernel"], theirs["conv.weight"].transpose(2, 3, 1, 0))
        and np.array_equal(ours["conv.bias"], theirs["conv.bias"])
        and np.array_equal(ours["dense.kernel"], theirs["dense.weight"].T)
        and np.array_equal(ours["norm.scale"], theirs["norm.weight"])
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
def test_numbers_of_any_width_become_float32(tmp_path, dtype):
    theirs = _random(dtype)
    save_file(theirs, tmp_path / "w.safetensors")
    ours = _load(tmp_path / "w.safetensors")
    assert all(x.dtype == np.float32 for x in ours.values())
    assert _same(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_of_both_forms_are_read(tmp_path, dtype, zipped):
    theirs = {key: torch.from_numpy(x).to(dtype) for key, x in _random().items()}
    torch.save(theirs, tmp_path / "w.bin", _use_new_zipfile_serialization=zipped)
    assert _same(_load(tmp_path / "w.bin"), {key: x.float().numpy() for key, x in theirs.items()})


def test_integers_and_eight_bit_floats_are_refused(tmp_path):
    for dtype, name in ((torch.int32, "I32"), (torch.float8_e4m3fn, "F8_E4M3")):
        save_torch(
            {key: torch.ones(shape).to(dtype) for key, shape in KEYS.items()},
            tmp_path / "w.safetensors",
        )
        with pytest.raises(UserError, match=f"dense.weight of {name}"):
            _load(tmp_path / "w.safetensors")


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_written_files_are_what_the_library_reads(tmp_path, dtype):
    ours = {key: x.astype(dtype).astype(np.float32) for key, x in _random().items()}
    turned = [(key, Layout.SAME, x) for key, x in ours.items()]
    write_safetensors(tmp_path / "w.safetensors", turned, KEYS, dtype=dtype)
    theirs = load_file(tmp_path / "w.safetensors")
    assert sorted(theirs) == sorted(KEYS)
    for key, x in theirs.items():
        assert x.dtype == dtype
        assert np.array_equal(x.astype(np.float32), ours[key])


def test_numbers_beyond_half_precision_are_refused(tmp_path):
    big = [("a", Layout.SAME, np.full(3, 1e6, np.float32))]
    with pytest.raises(UserError, match="a: holds numbers beyond float16's range"):
        write_safetensors(tmp_path / "w.safetensors", big, {"a": (3,)}, dtype=np.float16)


def _shards(folder, places):
    theirs = _random()
    for name in set(places.values()):
        save_file({key: theirs[key] for key, file in places.items() if file == name}, folder / name)
    (folder / "w.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return theirs


def test_shards_are_one_file(tmp_path):
    places = {key: f"w-{i % 3}.safetensors" for i, key in enumerate(KEYS)}
    theirs = _shards(tmp_path, places)
    assert find_weights(tmp_path, "w", "w") == tmp_path / "w.safetensors.index.json"
    assert _same(_load(tmp_path / "w.safetensors.index.json"), theirs)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update({"more": "w-0.safetensors"}), "more is not in w-0.safetensors"),
        (lambda m: m.pop("conv.bias"), "conv.bias is in"),
        (lambda m: m.update({"more": "../w-0.safetensors"}), "in the same folder"),
        (lambda m: m.update({"more": "gone.safetensors"}), "gone.safetensors"),
        (lambda m: m.update({"more": 3}), "no 'weight_map'"),
    ],
)
def test_an_index_that_lies_is_refused(tmp_path, change, words):
    _shards(tmp_path, {key: f"w-{i % 2}.safetensors" for i, key in enumerate(KEYS)})
    index = tmp_path / "w.safetensors.index.json"
    content = json.loads(index.read_text())
    change(content["weight_map"])
    index.write_text(json.dumps(content))
    with pytest.raises(UserError, match=words):
        _load(index)


def test_the_variant_is_found_where_the_whole_file_is_not(tmp_path):
    with pytest.raises(UserError, match=r"no weights here; looked for w\.safetensors"):
        find_weights(tmp_path, "w", "old")
    for name in ("old.bin", "w.fp16.safetensors", "w.safetensors"):
        (tmp_path / name).touch()
        assert find_weights(tmp_path, "w", "old").name == name


def test_other_endings_and_missing_files_are_named(tmp_path):
    (tmp_path / "w.onnx").write_bytes(b"\x08\x07 a graph")
    with pytest.raises(UserError, match=r"w\.onnx: not a weight file"):
        open_tensors(tmp_path / "w.onnx")
    for name in ("gone.safetensors", "gone.ckpt"):
        with pytest.raises(UserError, match=name):
            open_tensors(tmp_path / name)


def test_mapped_files_are_opened_again_before_much_of_them_is_resident():
    opened = []
    file = Mapped(lambda: opened.append(1) or object())
    for _ in range(8):
        file.take(50 * 2**20)
    assert len(opened) == 4
    file.take(2**40)  # larger than the limit: once
    assert len(opened) == 5


def _mutations(content: bytes, count: int):
    """Flips, cuts, growth and edits of the header; never a change within the data alone: no reader can see that."""
    rng = random.Random(0)
    start = 8 + int.from_bytes(content[:8], "little")
    for i in range(count):
        at = rng.randrange(start)
        match i % 6:
            case 0:
                yield (
                    content[:at]
                    + bytes([content[at] ^ (1 << rng.randrange(8))])
                    + content[at + 1 :]
                )
            case 1:
                yield content[: rng.randrange(len(content))]
            case 2:
                yield content + bytes(rng.randrange(256) for _ in range(rng.randrange(1, 64)))
            case 3:
                yield content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :]
            case 4:
                yield content[:at] + content[at + rng.randrange(1, 5) :]
            case 5:
                yield rng.randrange(2**64).to_bytes(8, "little") + content[8:]


def _edited_headers(content: bytes):
    """Headers that are JSON but lie."""
    size = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    huge = 2**62
    edits = [
        {"dtype": "I32"},
        {"dtype": "F16"},
        {"dtype": "NEW"},
        {"shape": [huge, huge]},
        {"shape": [-1]},
        {"shape": [5, 4]},
        {"shape": [20]},
        {"data_offsets": [0, huge]},
        {"data_offsets": [huge, huge + 80]},
        {"data_offsets": [80, 0]},
        {"data_offsets": [-80, 0]},
        {"data_offsets": [0, 80]},
        {"data_offsets": [1, 81]},
        {"data_offsets": [0]},
    ]
    edited = [header | {"dense.weight": header["dense.weight"] | edit} for edit in edits]
    edited += [
        {key: value for key, value in header.items() if key != "norm.weight"},
        header | {"another": header["norm.weight"]},
        header | {"norm.weight": header["conv.bias"]},
        header | {"norm.weight": None},
        {},
    ]
    for new in edited:
        text = json.dumps(new).encode()
        yield len(text).to_bytes(8, "little") + text + data
    yield (2**60).to_bytes(8, "little") + content[8:]
    yield b"[" * 5000


def test_damaged_files_never_load_as_something_else(tmp_path):
    """300 mutations and a score of lies: the file is refused in one line, or what loads is what was saved."""
    theirs = _random()
    save_file(theirs, tmp_path / "whole.safetensors", metadata={"format": "pt"})
    content = (tmp_path / "whole.safetensors").read_bytes()
    refused, whole, path = 0, 0, tmp_path / "w.safetensors"
    cases = [*_mutations(content, 300), *_edited_headers(content)]
    for i, damaged in enumerate(cases):
        path.write_bytes(damaged)
        try:
            loaded = _load(path)
        except UserError as error:
            refused += "w.safetensors" in str(error) and "\n" not in str(error)
            continue
        whole += 1
        assert _same(loaded, theirs), f"case {i} loaded as something else"
    assert refused + whole == len(cases)
    assert refused > 0.8 * len(cases)
