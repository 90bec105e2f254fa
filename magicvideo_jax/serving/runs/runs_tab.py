"""The tab that watches runs: state, curves, previews over time, metrics and settings.

One function draws it, whoever asks: a person who chose something, or the timer. It sends what differs from what the
browser shows.
"""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components.plot import PlotData

from magicvideo_jax.serving.runs.curve_panels import chart, panels_of
from magicvideo_jax.serving.runs.metric_curves import Curve
from magicvideo_jax.serving.runs.run_list import RunList
from magicvideo_jax.serving.runs.run_reading import RunReader, RunSnapshot
from magicvideo_jax.serving.runs.run_text import (
    STYLE,
    no_preview_html,
    no_runs_html,
    preview_html,
    scores_html,
    settings_html,
    status_html,
)

SECONDS_BETWEEN_LOOKS = 3.0
MOST_PANELS = 12
MOST_COMPARED = 7
"""Runs on one chart besides the chosen one: as many as there are colours."""
MOST_SMOOTHING = 30
"""Share of a curve, in per cent."""

Updates = dict[Any, Any]
"""New values of components."""
Drawn = dict[str, Any]
"""What each part of a browser's tab was drawn from. A chart that is sent again flickers, so a part is sent only when
that has changed."""


def add_runs_tab(folders: Sequence[Path]) -> None:
    """Add the tab's contents to the Blocks that are open.

    Each of `folders` is a work folder or a folder of work folders; runs that begin there later appear by themselves.
    """
    RunsTab(RunList(folders))


class RunsTab:
    """The components of the tab, and the function that draws them."""

    def __init__(self, runs: RunList):
        self._runs = runs
        self._drawn = gr.State({})
        with gr.Row():
            self._run = gr.Dropdown(choices=[], label="Run", scale=2, min_width=280)
            self._others = gr.Dropdown(
                choices=[],
                multiselect=True,
                max_choices=MOST_COMPARED,
                label="Compare with",
                scale=2,
                min_width=280,
            )
        self._status = gr.HTML(STYLE + no_runs_html(), apply_default_css=False)
        with gr.Column(visible=False) as self._body:
            with gr.Row():
                with gr.Column(scale=2, min_width=280):
                    self._smoothing = gr.Slider(
                        0, MOST_SMOOTHING, value=5, step=1, label="Smoothing, % of the curve"
                    )
                with gr.Column(scale=1, min_width=280):
                    self._is_log = gr.Checkbox(label="Logarithmic axis")
            with gr.Row(elem_classes="mv-plots"):
                self._plots = [
                    gr.Plot(show_label=False, visible=False, min_width=300)
                    for _ in range(MOST_PANELS)
                ]
            gr.Markdown("### Previews")
            self._place = gr.Slider(
                1, 2, value=1, step=1, visible=False, interactive=True, label="Preview over time"
            )
            self._preview = gr.HTML(apply_default_css=False)
            gr.Markdown("### Metrics")
            self._scores = gr.HTML(apply_default_css=False)
            with gr.Accordion("Settings that differ from the defaults", open=False):
                self._settings = gr.HTML(apply_default_css=False)
        # The first look comes at once, and its answer slows the timer down.
        self._timer = gr.Timer(0.1)
        choices = (self._run, self._others, self._smoothing, self._is_log, self._place)
        gr.on(
            [self._timer.tick, *(choice.input for choice in choices)],
            self._draw,
            inputs=[self._drawn, *choices],
            outputs=[
                *(self._drawn, self._timer, self._run, self._others, self._status, self._body),
                *(self._place, self._preview, self._scores, self._settings, *self._plots),
            ],
            show_progress="hidden",
            trigger_mode="always_last",
            # Gradio would keep statistics of every tick that went through its queue.
            queue=False,
            api_visibility="private",
        )

    def _draw(
        self,
        drawn: Drawn,
        run: Any,
        others: Any,
        smoothing: int | float,
        is_log: bool,
        place: int | float,
    ) -> Updates:
        """The parts that differ from what is drawn."""
        names, updates, drawn = tuple(self._runs.names()), Updates(), dict(drawn)
        if not drawn:
            updates[self._timer] = gr.Timer(SECONDS_BETWEEN_LOOKS)
        reader = self._runs.reader(run)
        if reader is None and names:
            run, reader = 0, self._runs.reader(0)
        if _differs(drawn, "names", names):
            choices = [(name, place) for place, name in enumerate(names)]
            updates[self._run] = gr.Dropdown(choices=choices, value=run)
            updates[self._others] = gr.Dropdown(choices=choices)
        if reader is not None:
            snapshot = reader.look()
            compared = {names[run]: snapshot.curves} | self._others_curves(others, names)
            key = (run, tuple(compared), smoothing, is_log, _size(compared))
            if _differs(drawn, "curves", key):
                updates |= self._draw_curves(compared, smoothing, is_log)
            updates |= self._draw_previews(drawn, run, reader, snapshot, place)
            if _differs(drawn, "tables", (run, snapshot.scores, snapshot.changed)):
                updates[self._scores] = scores_html(snapshot)
                updates[self._settings] = settings_html(snapshot)
            updates[self._status] = STYLE + status_html(names[run], snapshot)
            updates[self._body] = gr.Column(visible=True)
        return updates | {self._drawn: drawn}

    def _others_curves(self, others: Any, names: tuple[str, ...]) -> dict[str, Mapping[str, Curve]]:
        """The curves of the runs to compare with, by name."""
        places = others[:MOST_COMPARED] if isinstance(others, list) else []
        readers = [(place, self._runs.reader(place)) for place in places]
        return {
            names[place]: reader.look().curves for place, reader in readers if reader is not None
        }

    def _draw_curves(
        self, runs: Mapping[str, Mapping[str, Curve]], smoothing: int | float, is_log: bool
    ) -> Updates:
        panels = list(panels_of(runs))[:MOST_PANELS]
        charts = [chart(panel, is_log=is_log, smoothing=smoothing / 100) for panel in panels]
        return {
            plot: gr.Plot(visible=False)
            if one is None
            else gr.Plot(PlotData(type="altair", plot=one), visible=True)
            for plot, one in zip_longest(self._plots, charts)
        }

    def _draw_previews(
        self, drawn: Drawn, run: int, reader: RunReader, snapshot: RunSnapshot, place: int | float
    ) -> Updates:
        """The preview at the slider's place. A slider at its end follows the run."""
        steps, (was_run, was_steps) = snapshot.previews, drawn.get("previews", (None, ()))
        is_followed = run != was_run or place >= len(was_steps)
        place = len(steps) if is_followed else min(max(int(place), 1), len(steps))
        updates = Updates()
        if _differs(drawn, "previews", (run, steps)):
            updates[self._place] = gr.Slider(
                maximum=max(len(steps), 2), value=max(place, 1), visible=len(steps) > 1
            )
        step = steps[place - 1] if steps else None
        if step is None:
            text = no_preview_html(snapshot)
            if _differs(drawn, "preview", text):
                updates[self._preview] = text
        elif _differs(drawn, "preview", (run, len(steps), step)):
            sheet, clip = reader.preview(step), reader.preview(step, "mp4")
            updates[self._preview] = preview_html(place, steps, sheet, clip)
        return updates


def _differs(drawn: Drawn, part: str, source: Any) -> bool:
    """Whether a part was drawn from something else, or not yet; from now on it counts as drawn from `source`."""
    is_new = part not in drawn or drawn[part] != source
    drawn[part] = source
    return is_new


def _size(runs: Mapping[str, Mapping[str, Curve]]) -> tuple[Any, ...]:
    """What changes when a report is added to a curve."""
    return tuple(
        (name, len(curve.steps), curve.steps[-1], curve.means[-1])
        for curves in runs.values()
        for name, curve in curves.items()
    )
