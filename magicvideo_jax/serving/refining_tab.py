"""The tab that refines an uploaded clip: more frames, more pixels. It is there where `serve` has such networks."""

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from magicvideo_jax.experiment.requests.clip_request import ClipRequest, ModelRequest
from magicvideo_jax.media.frame_reader import ENDINGS
from magicvideo_jax.serving.clip_cards import empty_html
from magicvideo_jax.serving.clip_job import ClipMaker, Making
from magicvideo_jax.serving.request_form import RequestForm, read_request
from magicvideo_jax.serving.sampling_queue import AskedClips, Results, queue_clips
from magicvideo_jax.serving.uploads import uploaded_frames

FRAMES = 16
"""Frames that are taken of a clip: as many as LaVie's interpolation was trained with."""


class RefiningTab:
    """Components of the tab, and what its buttons do."""

    def __init__(self, maker: ClipMaker, refiners: Mapping[str, ModelRequest], uploads: Path):
        """`refiners` are requests by what the page calls them; `uploads` is the folder of uploaded files."""
        self._maker, self._refiners, self._uploads = maker, refiners, uploads
        form = self._form = RequestForm(maker.models)
        with gr.Row(elem_classes="mv-columns"):
            with gr.Column(scale=5, min_width=320):
                clip = gr.File(
                    label="Video or picture",
                    file_types=[*ENDINGS],
                    type="filepath",
                    height=150,
                    elem_id="upload",
                )
                what = gr.Radio(
                    [*refiners], value=next(iter(refiners)), label="Make of it", min_width=200
                )
                form.place("prompt")
                with gr.Row():
                    form.place("seed", "steps")
                with gr.Row():
                    form.place("frames", "size")
                with gr.Row():
                    start = gr.Button("Refine", variant="primary", elem_id="refine", min_width=160)
                    stop = gr.Button("Cancel", min_width=90, scale=0)
            with gr.Column(scale=7, min_width=320):
                status = gr.HTML(elem_id="refine-status", min_height=56)
                clips = gr.HTML(
                    empty_html(
                        "The refined clip appears here. Its prompt says what is to be seen."
                    ),
                    elem_id="refine-clips",
                )
        queue_clips(
            [start.click],
            stop,
            self._ask,
            inputs=[clip, what, *form.inputs],
            results=Results(status, clips),
        )

    def _ask(self, clip: str | None, what: str, *given: Any) -> AskedClips:
        """One clip, refined. Errors: `UserError` naming the argument."""
        _, request = read_request(self._form.values(given))
        return AskedClips([self._refined(clip, self._refiners[what], request)])

    async def _refined(self, clip: str | None, model: ModelRequest, request: ClipRequest) -> Making:
        """The upload decoded, then refined. Errors: `UserError` as well, for what cannot be decoded."""
        facts = self._maker.models.model("").facts
        height, width = request.size or (facts.size if facts else (256, 256))
        reading = uploaded_frames(
            clip, within=self._uploads, frames=request.frames or FRAMES, size=(height, width)
        )
        with contextlib.ExitStack() as stack:
            frames = await asyncio.to_thread(stack.enter_context, reading)
            making = self._maker.refine(model, request, frames=str(frames.file), fps=frames.fps)
            async with contextlib.aclosing(making):
                async for one in making:
                    yield one
