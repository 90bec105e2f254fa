"""`convert` leaves nothing behind where it fails, and says why in one line."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_convert import _convert, _copy, _same
from tiny_pipeline import (
    FILES,
    change,
    change_json,
    states,
    tiny_folder,
)

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.weights.open import open_weights
from magicvideo_jax.weights.writing import write_folders as folders
from magicvideo_jax.weights.writing.write_folders import write_jax

FORMS = pytest.mark.parametrize("second", [False, True], ids=["1.x", "2.x"])


def _cut(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda s: _cut(s / FILES["vae"]), FILES["vae"]),
        (
            lambda s: change(s / FILES["unet"], lambda w: w.pop("conv_in.weight")),
            "1 missing: conv_in.weight",
        ),
        (
            lambda s: change(s / FILES["unet"], lambda w: w.update({"more": torch.ones(2)})),
            "1 unknown: more (2,)",
        ),
        (
            lambda s: change(
                s / FILES["vae"], lambda w: w.update({"quant_conv.bias": torch.ones(2)})
            ),
            "quant_conv.bias",
        ),
        (lambda s: (s / "unet/config.json").unlink(), "unet/config.json"),
        (lambda s: (s / "vae/config.json").write_text("{"), "vae/config.json: not JSON"),
        (
            lambda s: (s / "scheduler/scheduler_config.json").write_text("[]"),
            "expected a JSON object",
        ),
        (
            lambda s: change_json(s / "unet/config.json", attention_type="gated"),
            "field 'attention_type' is 'gated'",
        ),
        (lambda s: change_json(s / "unet/config.json", block_out_channels=[64, 96]), "wrong shape"),
        (
            lambda s: change_json(
                s / "model_index.json", text_encoder_2=["transformers", "CLIPText"]
            ),
            "text_encoder_2",
        ),
        (lambda s: (s / FILES["text_encoder"]).unlink(), "text_encoder: no weights here"),
        (lambda s: (s / "model_index.json").unlink(), "no model_index.json"),
    ],
)
def test_a_source_that_is_not_whole_leaves_nothing_behind(tmp_path, damage, words):
    source = _copy(tmp_path)
    damage(source)
    with pytest.raises(UserError) as error:
        _convert(source, tmp_path / "out")
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_damaged_folder_of_ours_is_refused(tmp_path):
    write_jax(open_weights(tiny_folder()), tmp_path / "jax")
    checkpoint = tmp_path / "jax/vae/params"
    kept = [path for path in checkpoint.rglob("*") if path.is_file()]
    for path in kept:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="vae/params"):
        _convert(tmp_path / "jax", tmp_path / "out")
    shutil.rmtree(checkpoint)
    with pytest.raises(UserError, match="vae/params: no such folder"):
        _convert(tmp_path / "jax", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "failure", [KeyboardInterrupt, OSError(28, "No space left on device"), RuntimeError]
)
def test_a_write_that_breaks_off_leaves_nothing_behind(tmp_path, monkeypatch, failure):
    def fail(*_, **__):
        raise failure

    monkeypatch.setattr(folders, "_write_rest", fail)
    raised = UserError if isinstance(failure, OSError) else failure
    with pytest.raises(raised):
        _convert(tiny_folder(), tmp_path / "out", to="diffusers")
    assert list(tmp_path.iterdir()) == []


def test_a_target_is_replaced_only_when_asked_and_only_if_ours(tmp_path, monkeypatch):
    source, target = tiny_folder(), tmp_path / "out"
    target.mkdir()
    _convert(source, target, to="diffusers")  # an empty folder is no loss
    with pytest.raises(UserError, match="--overwrite"):
        _convert(source, target, to="diffusers")
    change(target / FILES["unet"], lambda w: w.update({"conv_in.bias": torch.ones(64)}))
    with monkeypatch.context() as patch:
        patch.setattr(folders, "_write_rest", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            _convert(source, target, to="diffusers", overwrite=True)
    assert (
        load_file(target / FILES["unet"])["conv_in.bias"].eq(1).all()
    )  # the old one is still there
    _convert(source, target, to="diffusers", overwrite=True)
    _same(states(target), states(source))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").touch()
    with pytest.raises(UserError, match="holds other things"):
        _convert(source, tmp_path / "home", overwrite=True)
    with pytest.raises(UserError, match="other than a folder"):
        _convert(source, tmp_path / "home" / "thesis.tex", overwrite=True)
    with pytest.raises(UserError, match="cannot be written"):
        _convert(source, tmp_path / "home" / "thesis.tex" / "below")
    with pytest.raises(UserError, match="lies within SOURCE"):
        _convert(target, target, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "out"]


def _run(*arguments):
    command = [sys.executable, "-m", "magicvideo_jax.convert", *map(str, arguments)]
    root = Path(__file__).parents[2]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=root, env={**os.environ}
    )


def test_help_is_quick():
    started = time.monotonic()
    done = _run("--help")
    assert done.returncode == 0
    assert "SOURCE" in done.stdout
    assert time.monotonic() - started < 2


def test_mistakes_are_one_line_and_exit_code_2(tmp_path):
    (tmp_path / "sd.safetensors").write_bytes(b"not a weight file")
    done = _run(tmp_path / "sd.safetensors", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path / 'sd.safetensors'}: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert _run(tmp_path / "gone", tmp_path / "out").returncode == 2
