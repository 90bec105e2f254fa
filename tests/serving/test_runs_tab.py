"""The tab that watches runs, in a browser, while a run trains."""

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import gradio as gr
import pytest
from tiny_experiment import tiny

from magicvideo_jax.experiment.run import run
from magicvideo_jax.runtime.preemption import PreemptionListener
from magicvideo_jax.serving import runs_tab
from magicvideo_jax.serving.runs_tab import add_runs_tab

pytestmark = pytest.mark.usefixtures("one_device")
PHONE = {"width": 390, "height": 844}


class Pace(PreemptionListener):
    """Lets a run do some steps and then wait: the loop asks it before every step."""

    def __init__(self) -> None:
        super().__init__()
        self._steps = threading.Semaphore(0)

    def allow(self, steps: int) -> None:
        for _ in range(steps):
            self._steps.release()

    def requested(self) -> bool:
        assert self._steps.acquire(timeout=300)
        return False


@pytest.fixture
def watch(serve_blocks, open_tab, monkeypatch) -> Callable[..., object]:
    """A function that serves the tab for some folders and opens it."""
    monkeypatch.setattr(runs_tab, "SECONDS_BETWEEN_LOOKS", 0.3)

    def start(*folders: Path, **how) -> object:
        with gr.Blocks() as blocks:
            add_runs_tab(folders)
        tab = open_tab(**how)
        tab.goto(serve_blocks(blocks))
        return tab

    return start


@pytest.fixture
def training(tmp_path: Path) -> Iterator[Callable[[Path], Pace]]:
    """A function that begins a run of eight steps in a thread."""
    threads = []

    def start(workdir: Path) -> Pace:
        pace, experiment = Pace(), tiny()
        train = replace(experiment.train, steps=8, save_every=8)
        thread = threading.Thread(
            target=run, args=(replace(experiment, train=train), workdir, pace), daemon=True
        )
        thread.start()
        threads.append((pace, thread))
        return pace

    yield start
    for pace, thread in threads:
        pace.allow(8)
        thread.join(120)


def test_a_run_is_watched_from_before_its_beginning_to_its_scores(
    watch, training, expect, tmp_path
):
    page = watch(tmp_path / "runs")
    expect(page.get_by_text("No run to watch yet")).to_be_visible()
    state, loss = page.locator(".mv-badge"), page.get_by_label(re.compile(r"^Loss\."))
    sheet = page.get_by_alt_text("Contact sheet of step")

    pace = training(tmp_path / "runs" / "mine")
    expect(state).to_have_text("starting")
    expect(page.get_by_text("The first preview comes at step 4")).to_be_visible()
    pace.allow(2)
    expect(state).to_have_text("training")
    expect(loss).to_have_attribute("aria-label", re.compile("at step 2$"))
    expect(page.get_by_text("2 of 8")).to_be_visible()
    pace.allow(2)
    expect(loss).to_have_attribute("aria-label", re.compile("at step 4$"))
    pace.allow(1)
    expect(page.get_by_alt_text("Contact sheet of step 4")).to_be_visible()
    expect(page.get_by_label("Preview over time").first).to_be_hidden()
    expect(page.get_by_text("metrics.json is written at the end of the run.")).to_be_visible()

    pace.allow(3)
    expect(page.get_by_alt_text("Contact sheet of step 8")).to_be_visible()
    expect(state).to_have_text("finished")
    expect(page.get_by_text("caption accuracy: all")).to_be_visible()
    expect(loss).to_have_attribute("aria-label", re.compile("at step 8$"))
    expect(
        loss.locator("svg path[aria-roledescription], svg .mark-line path").first
    ).to_be_visible()
    for title in (
        "Gradient norm",
        "Clips per second",
        "Time spent waiting for data",
        "Host memory",
    ):
        expect(page.get_by_label(re.compile(f"^{title}"))).to_be_visible()

    page.get_by_role("slider", name="Preview over time").press("ArrowLeft")
    expect(sheet).to_have_attribute("alt", "Contact sheet of step 4")
    page.wait_for_timeout(1000)  # some looks of the timer later
    expect(sheet).to_have_attribute("alt", "Contact sheet of step 4")
    page.get_by_text("Settings that differ from the defaults").click()
    expect(page.get_by_role("row", name="train.save_every 8 500")).to_be_visible()
