"""The web page: a tab that samples, one that compares, and what the server was started for besides."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from magicvideo_jax.experiment.requests.clip_request import ModelRequest
from magicvideo_jax.serving.clip_job import ClipMaker
from magicvideo_jax.serving.comparing_tab import ComparingTab
from magicvideo_jax.serving.refining_tab import RefiningTab
from magicvideo_jax.serving.runs.runs_tab import add_runs_tab
from magicvideo_jax.serving.sampling_queue import AT_ONCE
from magicvideo_jax.serving.sampling_tab import SamplingTab

TITLE = "magicvideo_jax"
MOST_WAITING = 64
"""Requests in the queue; those that come then are refused."""


def build_page(
    maker: ClipMaker, *, refiners: Mapping[str, ModelRequest], runs: Sequence[Path], uploads: Path
) -> gr.Blocks:
    """The page's Blocks. `refiners` take the clips that people put into the folder `uploads`; `runs` are the work
    folders that are watched."""
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.HTML(
            "<h1>magicvideo_jax</h1><p>Clips from text, by the model on this machine.</p>",
            elem_classes="mv-title",
        )
        with gr.Tab("Sample"):
            sampling = SamplingTab(maker, uploads)
        with gr.Tab("Compare"):
            comparing = ComparingTab(maker)
        if refiners:
            with gr.Tab("Refine"):
                RefiningTab(maker, refiners, uploads)
        if runs:
            with gr.Tab("Runs"):
                add_runs_tab(runs)

        def opened(request: gr.Request) -> dict[Any, Any]:
            query = {name: str(value) for name, value in request.query_params.items()}
            query = {name: value for name, value in query.items() if not name.startswith("__")}
            return {**sampling.open_link(query), **comparing.usual()}

        page.load(
            opened,
            outputs=[*sampling.filled_by_link, *comparing.filled_on_load],
            **AT_ONCE,
        )
    page.queue(max_size=MOST_WAITING, api_open=False)
    return page
