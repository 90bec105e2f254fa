"""Fields of the page for what can be asked of a clip: one component for each field of a request."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from magicvideo_jax.core.checks import named
from magicvideo_jax.experiment.requests.clip_request import ClipRequest
from magicvideo_jax.serving.model_facts import ModelFacts
from magicvideo_jax.serving.request_text import ModelChoice, typed_values
from magicvideo_jax.serving.served_models import ServedModels

SAMPLERS = ("ddim", "dpm++2m", "unipc", "euler", "ddpm", "lcm", "lfdm")
NARROW = 110
"""Least width in pixels of a field with a number: two stand beside each other on a phone."""


def number(label: str, value: str = "") -> Callable[[ServedModels], gr.Textbox]:
    """A field for a number, which may be empty. It is a text, because a number of a browser is never empty, exact to
    2^53 only, and changed where it is refused here."""
    return lambda _: gr.Textbox(
        value, label=label, placeholder="as usual", min_width=NARROW, max_lines=1
    )


FIELDS: dict[str, Callable[[ServedModels], Any]] = {
    "model": lambda models: gr.Dropdown(
        models.names,
        value=models.names[0],
        label="Model",
        visible=len(models.names) > 1,
        min_width=NARROW,
    ),
    "lora": lambda models: gr.Dropdown(
        [("none", ""), *((name, name) for name in models.files.loras)],
        value="",
        label="LoRA",
        visible=bool(models.files.loras),
    ),
    "lora_scale": lambda models: gr.Textbox(
        "1", label="LoRA scale", visible=bool(models.files.loras), min_width=NARROW
    ),
    "motion": lambda models: gr.Dropdown(
        [("none", ""), *((name, name) for name in models.files.motions)],
        value="",
        label="Motion modules",
        visible=bool(models.files.motions),
    ),
    "prompt": lambda _: gr.Textbox(
        label="Prompt", lines=2, max_lines=6, placeholder="What is there, and how does it move?"
    ),
    "negative_prompt": lambda _: gr.Textbox(
        label="Negative prompt", placeholder="What to steer away from", max_lines=3
    ),
    "seed": number("Seed", "0"),
    "steps": number("Steps"),
    "guidance": number("Guidance"),
    "sampler": lambda _: gr.Dropdown([*SAMPLERS], label="Sampler", min_width=NARROW),
    "fps": number("Frame rate"),
    "frames": number("Frames"),
    "size": lambda _: gr.Textbox(
        label="Height x width", placeholder="as trained", min_width=NARROW, max_lines=1
    ),
    "guidance_rescale": number("Guidance rescale"),
    "eta": number("Eta (ddim)"),
    "context_frames": number("Frames of a window"),
    "context_overlap": number("Overlap"),
    "context_stride": number("Strides"),
    "context_fuse": lambda _: gr.Dropdown(
        [("as usual", ""), "output", "attention"], value="", label="Join", min_width=NARROW
    ),
    "context_loop": lambda _: gr.Checkbox(False, label="Loop", min_width=NARROW),
    "context_reuse_noise": lambda _: gr.Checkbox(False, label="Reuse noise", min_width=NARROW),
    "free_init": number("FreeInit rounds"),
    "strength": number("Strength"),
    "known_frames": number("Known frames"),
}


class RequestForm:
    """Components by the names of their fields, in the order in which they were placed."""

    def __init__(self, models: ServedModels):
        self._models = models
        self.components: dict[str, Any] = {}

    def place(self, *names: str) -> None:
        """Make the components of these fields where the layout is."""
        for name in names:
            self.components[name] = FIELDS[name](self._models)

    @property
    def inputs(self) -> list[Any]:
        return list(self.components.values())

    def values(self, given: Sequence[Any]) -> dict[str, Any]:
        """Values of the components by field."""
        return dict(zip(self.components, given, strict=True))

    def usual_values(self, facts: ModelFacts | None) -> dict[Any, Any]:
        """Updates to the usual settings of a model."""
        if facts is None:
            return {}
        usual = {
            name: getattr(facts, name) for name in ("steps", "guidance", "sampler", "fps", "frames")
        }
        updates = {
            component: gr.update(value=_shown(usual[name]))
            for name, component in self.components.items()
            if name in usual
        }
        if size := self.components.get("size"):
            updates[size] = gr.update(placeholder="x".join(map(str, facts.size)))
        if (motion := self.components.get("motion")) and not facts.takes_motion:
            updates[motion] = gr.update(value="", interactive=False)
        elif motion:
            updates[motion] = gr.update(interactive=True)
        return updates

    def filled(self, choice: ModelChoice, request: ClipRequest) -> dict[Any, Any]:
        """Updates to the values of a request."""
        updates = {}
        for name, component in self.components.items():
            value = getattr(choice if hasattr(choice, name) else request, name)
            if name == "model" and not value:
                continue
            updates[component] = gr.update(value=_shown(value))
        return updates


def _shown(value: Any) -> Any:
    """A value as its field shows it."""
    match value:
        case bool():
            return value
        case tuple():
            return "x".join(map(str, value))
        case float():
            return f"{value:.10g}"
        case None:
            return ""
        case _:
            return str(value)


def read_request(given: Mapping[str, Any]) -> tuple[ModelChoice, ClipRequest]:
    """The request of values from a form or a link. Errors: `FieldError` naming the argument."""
    with named("--"):
        choice = ModelChoice(**typed_values(ModelChoice, given))
        # A box that is not ticked is left to the model.
        ticked = {name: value for name, value in given.items() if value is not False}
        request = ClipRequest(**{"prompt": "", **typed_values(ClipRequest, ticked)})
    return choice, replace(request, num=1)
