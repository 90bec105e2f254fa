"""The tab that watches runs, in a browser, while a run trains."""

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import gradio as gr
import pytest
from tiny_experiment import tiny

from magicvideo_jax.experiment.config import Experiment
from magicvideo_jax.experiment.run import run
from magicvideo_jax.runtime.preemption import PreemptionListener
from magicvideo_jax.serving.runs import runs_tab
from magicvideo_jax.serving.runs.runs_tab import add_runs_tab

pytestmark = pytest.mark.usefixtures("one_device")
BUSY_MACHINE = 400
"""Seconds that a compiler may take."""


class Pace(PreemptionListener):
    """A run in a thread that does some steps and then waits: the loop asks it before every step."""

    def __init__(self, experiment: Experiment, workdir: Path) -> None:
        super().__init__()
        self._allowed, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=run, args=(experiment, workdir, self), daemon=True)
        self._thread.start()

    def requested(self) -> bool:
        self._done.release()
        assert self._allowed.acquire(timeout=BUSY_MACHINE)
        return False

    def begin(self) -> None:
        """Wait until the programs are compiled."""
        assert self._done.acquire(timeout=BUSY_MACHINE)

    def go_on(self, steps: int) -> None:
        """Do some steps, and what comes before the next."""
        for _ in range(steps):
            self._allowed.release()
            assert self._done.acquire(timeout=BUSY_MACHINE)

    def finish(self) -> None:
        """Do all that is left."""
        for _ in range(100):
            self._allowed.release()
        self._thread.join(BUSY_MACHINE)


@pytest.fixture
def watch(serve_blocks, open_tab, monkeypatch) -> Callable[..., object]:
    """A function that serves the tab for some folders and opens it."""
    monkeypatch.setattr(runs_tab, "SECONDS_BETWEEN_LOOKS", 0.5)

    def start(*folders: Path, **how) -> object:
        with gr.Blocks() as blocks:
            add_runs_tab(folders)
        tab = open_tab(**how)
        tab.goto(serve_blocks(blocks))
        return tab

    return start


@pytest.fixture
def train() -> Iterator[Callable[[Path], Pace]]:
    """A function that begins a run of eight steps, with a report every second one and a preview at the fourth."""
    begun = []

    def start(workdir: Path) -> Pace:
        experiment = tiny()
        train = replace(experiment.train, steps=8, save_every=8)
        begun.append(Pace(replace(experiment, train=train), workdir))
        return begun[-1]

    yield start
    for pace in begun:
        pace.finish()


def test_a_run_is_watched_from_before_its_beginning_to_its_scores(watch, train, expect, tmp_path):
    page = watch(tmp_path / "runs")
    expect(page.get_by_text("No run to watch yet")).to_be_visible()
    state, loss = page.locator(".mv-badge"), page.get_by_label(re.compile(r"^Loss\."))
    sheet = page.get_by_alt_text("Contact sheet of step")

    pace = train(tmp_path / "runs" / "mine")
    expect(state).to_have_text("starting")
    expect(page.get_by_text("The first preview comes at step 4")).to_be_visible()
    pace.begin()
    pace.go_on(2)
    expect(state).to_have_text("training")
    expect(loss).to_have_attribute("aria-label", re.compile("at step 2$"))
    expect(page.get_by_text("2 of 8")).to_be_visible()
    pace.go_on(2)
    expect(loss).to_have_attribute("aria-label", re.compile("at step 4$"))
    pace.go_on(1)
    expect(page.get_by_alt_text("Contact sheet of step 4")).to_be_visible()
    expect(page.get_by_label("Preview over time").first).to_be_hidden()
    expect(page.get_by_text("metrics.json is written at the end of the run.")).to_be_visible()

    pace.finish()
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
