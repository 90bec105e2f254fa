"""The Colab notebook runs from its first cell to its last, and shows a clip that moves."""

from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from magicvideo_jax.data.video import read_video

NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "sample.ipynb"


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    return notebook, folder


def test_the_clip_is_shown_and_moves(executed):
    notebook, folder = executed
    shown = [
        out.data for cell in notebook.cells for out in cell.get("outputs", []) if out.output_type == "execute_result"
    ]
    assert any("<video" in data.get("text/html", "") for data in shown)
    assert any("image/png" in data for data in shown)
    clip, _ = read_video(folder / "clip.mp4")
    assert len(clip) == 16
    assert np.abs(clip[0].astype(int) - clip[-1]).max() > 60
