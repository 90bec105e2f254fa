"""Checkpoints that are pickles: nothing in them runs."""

import os
import pickle
import sys
import types

import numpy as np
import pytest
import torch

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.weights.tensor_files import open_tensors


class _Bomb:
    """Creates a file when it is unpickled without care."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_does_not_run(tmp_path, zipped):
    path, marker = tmp_path / "bad.ckpt", tmp_path / "ran"
    torch.save(
        {"state_dict": {"a": torch.ones(2)}, "callbacks": _Bomb(marker)},
        path,
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(UserError, match=r"bad\.ckpt: it names (posix|nt)\.mkdir") as error:
        open_tensors(path)
    assert "\n" not in str(error.value)
    assert not marker.exists()
    with path.open("wb") as file:
        pickle.dump(_Bomb(marker), file)
    with pytest.raises(UserError, match=r"bad\.ckpt"):
        open_tensors(path)
    assert not marker.exists()


def test_published_checkpoints_mention_a_callback(tmp_path, monkeypatch):
    """Stable Diffusion 1.4's file has the class of a callback as a key, and that library is not here."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    for depth in range(1, 4):
        monkeypatch.setitem(
            sys.modules, ".".join(name.split(".")[:depth]), types.ModuleType("fake")
        )
    fake = type("ModelCheckpoint", (), {"__module__": name})
    sys.modules[name].ModelCheckpoint = fake
    content = {"state_dict": {"a": torch.ones(2)}, "callbacks": {fake: {"best": 1}}, "epoch": 3}
    torch.save(content, tmp_path / "sd.ckpt")
    monkeypatch.undo()
    tensors = open_tensors(tmp_path / "sd.ckpt")
    assert list(tensors) == ["a"]
    assert tensors["a"].read().tolist() == [1, 1]


def test_cut_checkpoints_are_refused(tmp_path):
    path = tmp_path / "w.ckpt"
    for zipped in (True, False):
        torch.save({"a": torch.ones(100)}, path, _use_new_zipfile_serialization=zipped)
        content = path.read_bytes()
        for length in (0, 1, 10, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:length])
            with pytest.raises(UserError, match=r"w\.ckpt"):
                open_tensors(path)


@pytest.mark.parametrize("content", [[1, 2], 3, torch.ones(2)])
def test_a_checkpoint_without_names_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(UserError, match="holds no weights by name"):
        open_tensors(tmp_path / "w.pt")


def test_numpy_scalars_beside_the_weights_are_left_out(tmp_path):
    """Old Stable Diffusion files keep scores so; NumPy's functions are stood in for and not run."""
    scores = {"global_step": np.int64(5), "best": np.float64(0.1), "half": np.float16(1)}
    torch.save({"state_dict": {"a": torch.ones(2)}} | scores, tmp_path / "sd.ckpt")
    assert list(open_tensors(tmp_path / "sd.ckpt")) == ["a"]
    torch.save({"a": torch.ones(2), "names": np.array(["x"], object)}, tmp_path / "array.ckpt")
    with pytest.raises(UserError, match=r"it names numpy\.\S+, which is no tensor"):
        open_tensors(tmp_path / "array.ckpt")
