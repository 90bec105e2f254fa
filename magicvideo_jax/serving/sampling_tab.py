"""The tab that samples: a prompt and its settings on one side, clips on the other."""

import secrets
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.serving.clip_cards import empty_html, refusal_html
from magicvideo_jax.serving.clip_job import ClipMaker
from magicvideo_jax.serving.request_form import NARROW, RequestForm, read_request
from magicvideo_jax.serving.sampling_queue import (
    AT_ONCE,
    AskedClips,
    FormUpdates,
    Results,
    queue_clips,
)
from magicvideo_jax.serving.served_models import ServedModel
from magicvideo_jax.serving.source_fields import SourceFields

SEEDS = {"one clip": 1, "four seeds": 4}
"""Number of clips, by what the page calls it."""
MOST_RANDOM = 2**32


class SamplingTab:
    """Components of the tab, and what its buttons do."""

    def __init__(self, maker: ClipMaker, uploads: Path):
        """`uploads` is the folder of uploaded files."""
        self._maker = maker
        form = self._form = RequestForm(maker.models)
        first = maker.models.model("").facts
        with gr.Row(elem_classes="mv-columns"):
            with gr.Column(scale=5, min_width=320):
                form.place("model", "prompt")
                prompts = first.prompts if first else ()
                self._examples = gr.Dataset(
                    components=[gr.Textbox(visible=False)],
                    samples=[[prompt] for prompt in prompts],
                    label="Try",
                    elem_classes="mv-examples",
                )
                with gr.Row():
                    form.place("seed")
                    self._random = gr.Checkbox(
                        True,
                        label="Random",
                        info="a new seed each time",
                        min_width=NARROW,
                        elem_id="random-seed",
                    )
                self._number = gr.Radio([*SEEDS], value="one clip", show_label=False)
                with gr.Row():
                    start = gr.Button("Sample", variant="primary", elem_id="sample", min_width=160)
                    stop = gr.Button("Cancel", elem_id="cancel", min_width=90, scale=0)
                with gr.Accordion("Settings", open=False):
                    form.place("negative_prompt")
                    with gr.Row():
                        form.place("steps", "guidance", "sampler")
                    with gr.Row():
                        form.place("frames", "fps", "size")
                    with gr.Row():
                        form.place("guidance_rescale", "eta", "free_init")
                if maker.models.files.loras or maker.models.files.motions:
                    with gr.Accordion("Weights", open=True):
                        with gr.Row():
                            form.place("lora", "lora_scale")
                        form.place("motion")
                self._source = SourceFields(form, uploads)
                with gr.Accordion("Long clips: overlapping windows", open=False):
                    with gr.Row():
                        form.place("context_frames", "context_overlap", "context_stride")
                    with gr.Row():
                        form.place("context_fuse", "context_loop", "context_reuse_noise")
            with gr.Column(scale=7, min_width=320):
                self._status = gr.HTML(elem_id="sample-status", min_height=56)
                clips = gr.HTML(
                    empty_html("Clips appear here. Write a prompt, or take one of the examples."),
                    elem_id="sample-clips",
                )
        queue_clips(
            [start.click, form.components["prompt"].submit],
            stop,
            self._ask,
            inputs=[self._random, self._number, *self._source.inputs, *form.inputs],
            results=Results(self._status, clips),
            changed=[form.components["seed"]],
        )
        self._examples.click(
            lambda sample: sample[0],
            [self._examples],
            [form.components["prompt"]],
            **AT_ONCE,
        )
        form.components["model"].input(
            self._show_model,
            [form.components["model"]],
            [*form.inputs, self._examples, self._status],
            **AT_ONCE,
        )

    @property
    def filled_by_link(self) -> list[Any]:
        """Components that a link changes."""
        return [*self._form.inputs, self._random, self._examples, self._status]

    def open_link(self, query: Mapping[str, str]) -> FormUpdates:
        """Updates when the page is opened: the usual settings, and what its link asks for."""
        try:
            choice, request = read_request({"prompt": "?", **query})
            model = self._maker.models.model(choice.model)
            self._maker.models.request(choice)
            updates = self._usual(model)
            if query:
                asked = self._form.filled(choice, request)
                given = {
                    component for name, component in self._form.components.items() if name in query
                }
                updates |= {one: value for one, value in asked.items() if one in given}
                updates[self._random] = gr.update(value="seed" not in query)
            return updates
        except UserError as error:
            refused = {self._status: refusal_html(f"This link is refused: {error}")}
            return self._usual(self._maker.models.model("")) | refused

    def _show_model(self, name: str) -> FormUpdates:
        try:
            return self._usual(self._maker.models.model(name))
        except UserError as error:
            return {self._status: refusal_html(str(error))}

    def _usual(self, model: ServedModel) -> FormUpdates:
        if model.facts is None:
            return {self._status: refusal_html(model.trouble)}
        samples = [[prompt] for prompt in model.facts.prompts]
        return {
            **self._form.usual_values(model.facts),
            self._examples: gr.Dataset(samples=samples),
            self._status: "",
        }

    def _ask(
        self, random: bool, number: str, file: str | None, use: str, *given: Any
    ) -> AskedClips:
        """A clip for each seed. Errors: `UserError` naming the argument."""
        values = self._form.values(given)
        if random:
            values["seed"] = secrets.randbelow(MOST_RANDOM)
        choice, first = read_request(values)
        requests = [replace(first, seed=first.seed + i) for i in range(SEEDS[number])]
        source = self._source.read(file, use)
        makings = [self._maker.sample(choice, request, source) for request in requests]
        return AskedClips(makings, updates={self._form.components["seed"]: str(first.seed)})
