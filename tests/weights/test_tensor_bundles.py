"""TensorFlow's bundles of variables are read without TensorFlow, and damaged ones are refused."""

import random
from pathlib import Path

import numpy as np
import pytest
from tensor_bundle_writer import write_bundle

from magicvideo_jax.core.crc32c import crc32c
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.weights.tensor_bundles import find_bundle, open_bundle


def variables(count: int = 100) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {
        **{f"net/layer_{i}/w": draw.normal(size=(2, 3)).astype(np.float32) for i in range(count)},
        "net/number": np.float32(3),
        "step": np.int64([7]),
        "wide": draw.normal(size=4),
    }


def slow_crc32c(message: bytes) -> int:
    register = 0xFFFFFFFF
    for byte in message:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def test_checksums_are_those_of_the_definition(monkeypatch: pytest.MonkeyPatch):
    assert crc32c(b"123456789") == 0xE3069283
    draw = random.Random(0)
    for batch in (1 << 22, 700):  # messages of one batch and of several
        monkeypatch.setattr("magicvideo_jax.core.crc32c._BATCH", batch)
        for size in (0, 1, 511, 512, 513, 1600, 2500):
            message = draw.randbytes(size)
            assert crc32c(message) == slow_crc32c(message), size


def test_variables_are_what_was_written(tmp_path: Path):
    index = write_bundle(tmp_path / "model.ckpt", variables())
    found = open_bundle(index)
    assert found.keys() == variables().keys()
    for name, array in variables().items():
        assert found[name].shape == array.shape
        assert found[name].read().tobytes() == array.tobytes()


def test_a_bundle_is_found_by_any_of_its_names(tmp_path: Path):
    index = write_bundle(tmp_path / "model.ckpt", variables(1))
    names = ("model.ckpt", "model.ckpt.index", "model.ckpt.data-00000-of-00001", "")
    assert all(find_bundle(tmp_path / name) == index for name in names)
    assert find_bundle(tmp_path / "other") is None


def test_damage_is_named(tmp_path: Path):
    """Each byte of the index is under a checksum or has one meaning; a byte of the data is missed when it is read."""
    index = write_bundle(tmp_path / "model.ckpt", variables(3))
    data, content = tmp_path / "model.ckpt.data-00000-of-00001", index.read_bytes()
    numbers, draw = data.read_bytes(), random.Random(0)
    expected = {name: tensor.read().tobytes() for name, tensor in open_bundle(index).items()}
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        index.write_bytes(damaged[: draw.choice([len(damaged), draw.randrange(len(damaged))])])
        try:  # the footer's padding means nothing
            assert expected == {
                n: tensor.read().tobytes() for n, tensor in open_bundle(index).items()
            }
        except UserError as error:
            refused += "\n" not in str(error) and str(error).startswith(str(index))
    print(f"{refused} of 300 refused")
    assert refused > 200
    index.write_bytes(content)
    data.write_bytes(numbers[:-1])
    with pytest.raises(UserError, match="data-00000-of-00001: cut off"):
        open_bundle(index)
    data.write_bytes(bytes([numbers[0] ^ 1]) + numbers[1:])
    with pytest.raises(UserError, match="damaged: its numbers differ from their checksum"):
        open_bundle(index)["net/layer_0/w"].read()
    data.unlink()
    with pytest.raises(UserError, match="No such file"):
        open_bundle(index)
