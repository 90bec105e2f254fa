"""The Colab notebook runs from its first cell to its last, and shows what it makes.

Its cells run in this process, where JAX is loaded and compiled programs are kept.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pytest
from clip_reading import read_clip
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config

from magicvideo_jax.experiment import pipeline

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "sample.ipynb"
CELLS = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]


@pytest.fixture
def shell(tmp_path, monkeypatch, one_device) -> Iterator[InteractiveShell]:
    """IPython without a history, in a folder of its own; two steps of sampling are enough to see a picture."""
    monkeypatch.setattr(pipeline, "EMBEDDED_SAMPLE", replace(pipeline.EMBEDDED_SAMPLE, steps=2))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    yield InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    InteractiveShell.clear_instance()


def results(shell: InteractiveShell, sources: list[str]) -> tuple[list[Any], str]:
    """Run cells: the value that each ends with, and the HTML that they display."""
    with capture_output() as shown:
        done = [shell.run_cell(source) for source in sources]
    for one in done:
        one.raise_error()
    html = [output.data.get("text/html", "") for output in shown.outputs]
    return [one.result for one in done], "\n".join(html)


def test_it_is_a_notebook():
    nbformat.validate(nbformat.read(NOTEBOOK, as_version=4))
    assert not any(cell.outputs for cell in CELLS), "clear the outputs before you commit"


def test_images_of_the_embedded_model_are_shown(shell):
    values, _ = results(shell, [cell.source for cell in CELLS])
    (picture,) = [value for value in values if value is not None]
    assert hasattr(picture, "_repr_png_")


def test_a_clip_is_shown_from_weights_of_ones_own(shell, tmp_path):
    """The embedded weights stand for them: a clip of one frame."""
    last = CELLS[-1].source.replace('WEIGHTS = ""', 'WEIGHTS = "embedded"')
    _, html = results(shell, ["import magicvideo_jax as mv", last])
    assert "<video" in html
    assert len(read_clip(tmp_path / "clip.mp4")[0]) == 1
