"""The tab that compares: two models or two settings, side by side from the same seed."""

import secrets
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
from magicvideo_jax.serving.sampling_tab import MOST_RANDOM

SIDES = ("A", "B")


class ComparingTab:
    """Components of the tab: what both sides share, then a form for each."""

    def __init__(self, maker: ClipMaker):
        self._maker = maker
        self._shared = RequestForm(maker.models)
        self._sides = [RequestForm(maker.models) for _ in SIDES]
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                self._shared.place("prompt")
            with gr.Column(scale=1, min_width=300):
                with gr.Row():
                    self._shared.place("seed")
                    self._random = gr.Checkbox(
                        True, label="Random", info="a new seed each time", min_width=NARROW
                    )
                with gr.Row():
                    self._shared.place("frames", "fps")
        with gr.Row():
            for name, form in zip(SIDES, self._sides, strict=True):
                with gr.Column(min_width=320, elem_id=f"side-{name.lower()}"):
                    gr.HTML(f"<h3>{name}</h3>", elem_classes="mv-side")
                    form.place("model")
                    with gr.Row():
                        form.place("steps", "guidance", "sampler")
                    form.place("negative_prompt")
                    with gr.Row():
                        form.place("lora", "lora_scale", "motion")
        with gr.Row():
            start = gr.Button("Compare", variant="primary", elem_id="compare", min_width=160)
            stop = gr.Button("Cancel", elem_id="cancel-compare", min_width=90, scale=0)
        self._status = gr.HTML(elem_id="compare-status", min_height=56)
        clips = gr.HTML(
            empty_html("The same prompt and seed, twice: change a setting of one side."),
            elem_id="compare-clips",
        )
        sides = [one for form in self._sides for one in form.inputs]
        queue_clips(
            [start.click],
            stop,
            self._ask,
            inputs=[self._random, *self._shared.inputs, *sides],
            results=Results(self._status, clips),
            changed=[self._shared.components["seed"]],
        )
        for form in self._sides:
            model = form.components["model"]
            model.input(
                self._side_shows(form),
                [model],
                [*form.inputs, self._status],
                **AT_ONCE,
            )

    @property
    def filled_on_load(self) -> list[Any]:
        """Components that begin with the usual settings."""
        return [*self._shared.inputs, *(one for form in self._sides for one in form.inputs)]

    def usual(self) -> FormUpdates:
        """Updates when the page is opened. Where there are two models, each side has its own."""
        names = self._maker.models.names
        updates = self._shared.usual_values(self._maker.models.model("").facts)
        for form, name in zip(self._sides, (names[0], names[min(1, len(names) - 1)]), strict=True):
            updates |= form.usual_values(self._maker.models.model(name).facts)
            updates[form.components["model"]] = gr.update(value=name)
        return updates

    def _side_shows(self, form: RequestForm) -> Any:
        def show(name: str) -> FormUpdates:
            try:
                return form.usual_values(self._maker.models.model(name).facts) | {self._status: ""}
            except UserError as error:
                return {self._status: refusal_html(str(error))}

        return show

    def _ask(self, random: bool, *given: Any) -> AskedClips:
        """A clip of each side. Errors: `UserError` that begins with the side."""
        count = len(self._shared.inputs)
        shared, rest = self._shared.values(given[:count]), given[count:]
        if random:
            shared["seed"] = secrets.randbelow(MOST_RANDOM)
        makings, seed = [], ""
        for name, form in zip(SIDES, self._sides, strict=True):
            own, rest = rest[: len(form.inputs)], rest[len(form.inputs) :]
            try:
                choice, request = read_request({**shared, **form.values(own)})
                makings.append(self._maker.sample(choice, request))
            except UserError as error:
                raise UserError(f"{name}: {error}") from None
            seed = str(request.seed)
        return AskedClips(makings, headings=SIDES, updates={self._shared.components["seed"]: seed})
