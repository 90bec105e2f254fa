"""Clips conditioned on CLIP's embedding of a picture: training without captions, and variations of pictures."""

from dataclasses import asdict, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny import quick, random_params
from tiny_experiment import MODEL, tiny
from torch_weights import randomise
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
from verbs_in_process import run_main

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.types import Condition
from magicvideo_jax.experiment.config import Component, read_experiment
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.opening.initial_weights import initial_of
from magicvideo_jax.experiment.opening.run_weights import open_any_weights, weights_to_export
from magicvideo_jax.experiment.pipeline import Pipeline, load
from magicvideo_jax.experiment.requests.clip_making import check_clip_request, sample_clips
from magicvideo_jax.experiment.requests.clip_request import NO_SOURCE, ClipRequest, SourceRequest
from magicvideo_jax.experiment.run import run
from magicvideo_jax.experiment.stages.registry import check_fitted, check_stage
from magicvideo_jax.models.clip_vision import VisionConfig
from magicvideo_jax.models.image_prompt import TO_TEXT, ImagePromptConfig
from magicvideo_jax.models.temporal import TemporalConfig
from magicvideo_jax.training.image_prompts import ImagePrompts
from magicvideo_jax.training.objectives import DenoisingConfig, prompt_states, text_states
from magicvideo_jax.training.optimizer import Freeze, OptimConfig
from magicvideo_jax.weights.clip_encoders import open_vision
from magicvideo_jax.weights.clip_json import vision_json

pytestmark = pytest.mark.usefixtures("one_device")
VISION = VisionConfig(size=16, patch=8, width=8, layers=1, heads=2, hidden=16, embedding=12)
ALL, UNCAPTIONED = (
    DenoisingConfig(image_prompts=which) for which in (ImagePrompts.ALL, ImagePrompts.UNCAPTIONED)
)
FRAMES, TOKENS = 2, MODEL.text.tokens


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    """CLIP's image encoder as transformers publishes it."""
    folder = tmp_path_factory.mktemp("clip")
    config = CLIPVisionConfig(**vision_json(VISION))
    randomise(CLIPVisionModelWithProjection(config)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def trained(clip, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("run")
    usual = tiny(image_encoder_from=clip, denoising=ALL)
    quick_train = replace(usual.train, save_every=4, preview_every=9)  # no preview
    quick_scores = replace(usual.evaluate, metrics=("held_out_loss",))
    run(replace(usual, train=quick_train, evaluate=quick_scores), workdir)
    return workdir


def networks_and_params() -> tuple[Networks, dict]:
    image = ImagePromptConfig(**asdict(VISION), text_width=MODEL.text.width)
    unet = replace(MODEL.unet, temporal=TemporalConfig(frames=FRAMES))
    networks = Networks(replace(MODEL, unet=unet, image_prompt=image))
    components = (Component.UNET, Component.VAE, Component.TEXT, Component.IMAGE)
    return networks, random_params(networks.shapes(components))


def test_a_repeated_state_is_one_state():
    networks, params = networks_and_params()
    draw = np.random.default_rng(0)
    z = jnp.asarray(draw.normal(size=(2, FRAMES, 8, 8, 4)), jnp.float32)
    state = jnp.asarray(draw.normal(size=(2, 1, MODEL.text.width)), jnp.float32)

    @quick
    def denoise(text):
        return networks.denoise(params, z, jnp.full(2, 9.0), Condition(text, jnp.full(2, 8.0)))

    one, repeated = denoise(state), denoise(jnp.repeat(state, 7, axis=1))
    np.testing.assert_allclose(repeated, one, atol=1e-5 * float(jnp.abs(one).max()))
    assert jnp.abs(denoise(2 * state) - one).max() > 1e-3


def test_a_frame_takes_the_place_of_its_caption_alone():
    """Rows: a captioned and an uncaptioned clip, and the same without their prompts (dropout)."""
    networks, params = networks_and_params()
    draw = np.random.default_rng(0)
    null = np.zeros(TOKENS, np.int32)
    ids = np.stack([null + 5, null, null + 5, null])
    pixels = draw.integers(0, 256, (4, FRAMES, 16, 16, 3), np.uint8)
    batch = {"ids": jnp.asarray(ids), "pixels": jnp.asarray(pixels)}
    given = (networks.denoising_networks(), params, batch, null)
    is_kept = jnp.array([True, True, False, False])

    def states(which: ImagePrompts) -> np.ndarray:
        return np.asarray(prompt_states(*given, is_kept=is_kept, image_prompts=which))

    text = np.asarray(text_states(*given, is_kept=is_kept))
    frame = np.asarray(networks.encode_frame(params, batch))[:, None]
    assert np.ptp(frame, axis=0).max() > 1e-2
    shown = np.broadcast_to(frame, text.shape)
    np.testing.assert_array_equal(states(ImagePrompts.NONE), text)
    np.testing.assert_array_equal(
        states(ImagePrompts.UNCAPTIONED), np.stack([text[0], shown[1], *text[2:]])
    )
    np.testing.assert_array_equal(states(ImagePrompts.ALL), np.stack([*shown[:2], *text[2:]]))


def test_precomputed_latents_are_decoded_for_the_encoder():
    networks, params = networks_and_params()
    z = jnp.asarray(np.random.default_rng(0).normal(size=(2, FRAMES, 8, 8, 4)), jnp.float32)
    pixels = networks.decode(params, z[:, FRAMES // 2], as_images=True)
    ours = networks.encode_frame(params, {"latents": z})
    np.testing.assert_array_equal(ours, networks.encode_picture(params, pixels))


def test_the_map_trains_and_clip_does_not(clip, trained):
    image = load(trained).params[Component.IMAGE.value]
    part, _ = open_vision(clip, argument="")
    encoder = part.load(part.network().shapes)
    jax.tree.map(np.testing.assert_array_equal, {name: image[name] for name in encoder}, encoder)
    assert set(image) - set(encoder) == {TO_TEXT}
    assert np.any(image[TO_TEXT]["kernel"])  # it began at zero


def test_training_goes_on_with_captions_or_with_frames(trained):
    """What was learned from frames alone is where learning from captions begins."""
    frames = initial_of(tiny(init_from=str(trained), denoising=UNCAPTIONED))
    captions = initial_of(tiny(init_from=str(trained)))
    assert set(frames.parts) - set(captions.parts) == {Component.IMAGE}
    assert frames.fitted(MODEL).image_prompt == frames.parts[Component.IMAGE].config
    assert captions.fitted(MODEL).image_prompt is None


def test_an_export_leaves_the_encoder_out_and_says_so(trained):
    weights = weights_to_export(open_any_weights(trained, argument=""))
    assert set(weights.parts) == {"unet", "vae", "text_encoder"}
    assert "left out the image encoder" in weights.notes[-1]


@pytest.fixture
def pictures(tmp_path) -> dict[str, str]:
    """Two pictures of different sizes, and a file that is none."""
    draw = np.random.default_rng(0)
    for name, shape in (("one", (16, 16, 3)), ("other", (20, 31, 4))):
        Image.fromarray(draw.integers(0, 256, shape, np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "text.png").write_text("text")
    return {name: str(tmp_path / f"{name}.png") for name in ("one", "other", "text")}


def test_the_picture_decides_on_the_clip(trained, pictures):
    pipe = load(trained)
    image = pipe.params[Component.IMAGE.value]
    pipe.params[Component.IMAGE.value] = {**image, TO_TEXT: random_params(image[TO_TEXT])}

    def sampled(name: str) -> np.ndarray:
        source = SourceRequest(variation=pictures[name])
        return sample_clips(pipe, ClipRequest("", num=2), source).clips

    one = sampled("one")
    assert one.shape == (2, FRAMES, 16, 16, 3)
    np.testing.assert_array_equal(sampled("one"), one)
    assert np.any(sampled("other") != one)
    assert np.any(one[0] != one[1])  # other noise


def refusal(pipe: Pipeline, request: ClipRequest, source: SourceRequest) -> str:
    def asked() -> None:
        check_clip_request(request, source)
        sample_clips(pipe, request, source)

    with pytest.raises(UserError) as error:
        asked()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_bad_requests_are_refused_in_one_line(trained, pictures, capfd):
    pipe, source = load(trained), SourceRequest(variation=pictures["one"])
    there = f"--variation={pictures['one']}"
    assert refusal(pipe, ClipRequest("a"), source) == f"{there}: give it or prompt, not both"
    assert refusal(pipe, ClipRequest(""), NO_SOURCE) == "--prompt is empty: give a text"
    missing = SourceRequest(variation="no.png")
    assert refusal(pipe, ClipRequest(""), missing) == "--variation=no.png: no such file"
    assert "not a picture" in refusal(
        pipe, ClipRequest(""), SourceRequest(variation=pictures["text"])
    )
    with pytest.raises(UserError, match="give it or variation, not both"):
        SourceRequest(image="a.png", variation="b.png")
    del pipe.params[Component.IMAGE.value]
    assert "was trained with config.denoising.image_prompts" in refusal(
        pipe, ClipRequest(""), source
    )
    with pytest.raises(AssertionError, match="exit code 2"):
        run_main(["magicvideo_jax.sample", "--out=clip.gif"])
    assert "--prompt: give a text, or a picture" in capfd.readouterr().err


def test_configs_that_fit_nothing_are_refused(clip):
    with pytest.raises(UserError, match=r"config.image_encoder_from=CLIP: no example"):
        read_experiment({"image_encoder_from": "CLIP"})
    with pytest.raises(UserError, match=r"give one of CLIP as config.image_encoder_from"):
        check_fitted(tiny(denoising=ALL))
    with pytest.raises(UserError, match=r"config.optim.freeze=lora: does not train the map"):
        check_stage(tiny(denoising=ALL, optim=OptimConfig(freeze=Freeze.LORA)))
    with pytest.raises(UserError, match="image_prompts=all: not for stage=consistency"):
        check_stage(tiny("consistency", denoising=ALL))
    with pytest.raises(UserError, match=r"config.image_encoder_from=none: no such file"):
        initial_of(tiny(denoising=ALL, image_encoder_from="none"))
    fitted = initial_of(tiny(denoising=ALL, image_encoder_from=clip)).fitted(MODEL)
    assert fitted.image_prompt == ImagePromptConfig(**asdict(VISION), text_width=MODEL.text.width)
