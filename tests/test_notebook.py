"""The Colab notebook runs from its first cell to its last, and shows what it makes.

Its cells and their commands run in this process, where JAX is loaded and compiled programs are kept.
"""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from clip_reading import read_clip
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from tiny_pipeline import tiny_folder
from traitlets.config import Config
from verbs_in_process import run_main

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "sample.ipynb"
FEW_STEPS = (
    "2 --config.train.batch_size=1 --config.optim.warmup=0 --config.evaluate.clips=1 "
    "--config.sample.steps=2"
)
CELLS = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]


@pytest.fixture
def shell(tmp_path, monkeypatch, one_device) -> Iterator[InteractiveShell]:
    """IPython without a history, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))

    def system(command: str) -> None:
        python, _, module, *arguments = shlex.split(shell.var_expand(command, depth=1))
        assert python == "python"
        run_main([module, *arguments])

    monkeypatch.setattr(shell, "system", system)
    yield shell
    InteractiveShell.clear_instance()


def shown(shell: InteractiveShell, sources: list[str]) -> list[Any]:
    """Run cells: the values that they end with or display."""
    values = []
    for source in sources:
        with capture_output() as output:
            done = shell.run_cell(source)
        done.raise_error()
        values += [done.result, *(display.data for display in output.outputs)]
    return [value for value in values if value is not None]


def test_it_is_a_notebook():
    nbformat.validate(nbformat.read(NOTEBOOK, as_version=4))
    assert not any(cell.outputs for cell in CELLS), "clear the outputs before you commit"


def test_a_clip_is_shown_and_ten_clips_are_trained_on(shell, tmp_path):
    few = [cell.source.replace("{STEPS}", FEW_STEPS) for cell in CELLS]
    videos = shown(shell, few)
    assert all(hasattr(video, "_repr_html_") for video in videos)
    names = ("clip.mp4", "clips/0.mp4", "purple.mp4", "from_python.mp4")
    clips = [read_clip(tmp_path / name)[0] for name in names]
    assert len(videos) == len(names)
    assert {clip.shape for clip in clips} == {(16, 64, 64, 3)}
    red, green, blue = clips[1].mean((0, 1, 2))
    assert blue > red > green
    config = json.loads((tmp_path / "ten" / "config.json").read_text())
    assert (config["init_from"], config["train"]["steps"]) == ("embedded_video", 2)


def test_a_clip_is_shown_from_weights_of_ones_own(shell, tmp_path):
    """A tiny Stable Diffusion stands for them: a clip of one frame."""
    (cell,) = [cell.source for cell in CELLS if "WEIGHTS = " in cell.source]
    (help,) = [cell.source for cell in CELLS if "def show" in cell.source]
    help = help.partition("\nPROMPT")[0]
    own = cell.replace('WEIGHTS = ""', f'WEIGHTS = "{tiny_folder()}"')
    own = own.replace("--out=own.mp4", "--out=own.mp4 --steps=1 --size=16x16")
    (display,) = shown(shell, [help, own])
    assert "<video" in display["text/html"]
    clip = read_clip(tmp_path / "own.mp4")[0]
    assert len(clip) == 1
    assert np.isfinite(clip).all()
