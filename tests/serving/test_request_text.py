"""Requests as text: what a link and a form say is what is asked for, and nothing else gets through."""

import pytest

from magicvideo_jax.core.checks import FieldError
from magicvideo_jax.experiment.requests.clip_request import ClipRequest
from magicvideo_jax.serving.request_text import (
    ModelChoice,
    link_query,
    settings_text,
    typed_values,
)

FULL = ClipRequest(
    'a "red" <star> & more ☃',
    negative_prompt="a=b&c",
    seed=2**63 - 1,
    sampler="dpm++2m",
    steps=3,
    guidance=0.1,
    fps=7.5,
    size=(16, 32),
    context_frames=4,
    context_loop=False,
    context_reuse_noise=True,
)
CHOICE = ModelChoice("a model", lora="style one.safetensors", lora_scale=-0.5)


def parsed(query: str) -> tuple[ModelChoice, ClipRequest]:
    from urllib.parse import parse_qsl

    given = dict(parse_qsl(query, keep_blank_values=True))
    return (
        ModelChoice(**typed_values(ModelChoice, given)),
        ClipRequest(**typed_values(ClipRequest, given)),
    )


@pytest.mark.parametrize(
    ("choice", "request_"), [(CHOICE, FULL), (ModelChoice(), ClipRequest("a"))], ids=str
)
def test_a_link_says_all_that_was_asked_for(choice, request_):
    assert parsed(link_query(request_, choice)) == (choice, request_)


def test_a_file_keeps_what_is_not_usual():
    assert settings_text(ClipRequest("a", seed=3), ModelChoice("m")) == {
        "model": "m",
        "prompt": "a",
        "seed": 3,
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", "1e3"),
        ("steps", "²"),
        ("steps", "1" * 31),
        ("steps", "three"),
        ("steps", 2.5),
        ("steps", True),
        ("steps", [3]),
        ("steps", float("nan")),
        ("steps", float("inf")),
        ("seed", "0x10"),
        ("guidance", "a"),
        ("guidance", True),
        ("guidance", {"a": 1}),
        ("prompt", 3),
        ("prompt", ["a"]),
        ("prompt", "\ud800"),
        ("context_loop", "maybe"),
        ("context_loop", 7),
        ("size", "16"),
        ("size", [16]),
    ],
)
def test_a_value_of_another_kind_is_refused_by_name(field, value):
    with pytest.raises(FieldError, match=rf"^{field}"):
        typed_values(ClipRequest, {field: value})


def test_unknown_names_and_blank_numbers_are_left_out():
    assert typed_values(
        ClipRequest, {"steps": "", "fps": None, "out": "/etc/x", "seed": " 4 "}
    ) == {"seed": 4}
