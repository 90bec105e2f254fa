"""The Colab notebook runs from its first cell to its last, and shows what it makes."""

from pathlib import Path

import nbformat
import pytest
from clip_reading import read_clip
from nbclient import NotebookClient
from tiny_experiment import tiny

from magicvideo_jax.experiment.run import run

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "sample.ipynb"


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    execute(notebook, tmp_path_factory.mktemp("notebook"))
    return notebook


def execute(notebook, folder):
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": folder}}
    ).execute()


def test_pictures_are_shown(executed):
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    assert any(
        "image/png" in output.data for output in outputs if output.output_type == "execute_result"
    )


def test_a_clip_is_shown_from_a_work_folder(tmp_path):
    """The cell for weights of one's own, with a run of a moment ago in them."""
    run(tiny(), tmp_path / "run")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace('WEIGHTS = ""', f'WEIGHTS = "{tmp_path / "run"}"')
    notebook.cells = [notebook.cells[2], notebook.cells[-1]]
    execute(notebook, tmp_path)
    assert any(
        "<video" in output.get("data", {}).get("text/html", "")
        for output in notebook.cells[-1].outputs
    )
    assert len(read_clip(tmp_path / "clip.mp4")[0]) == 2
