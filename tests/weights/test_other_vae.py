"""A VideoVAE decodes what a model draws: by weights that carry one, by name in the config, or by name when sampling."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny import random_params
from tiny_experiment import MODEL, tiny
from tiny_weights import random_model, written

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import flatten, unflatten
from magicvideo_jax.core.types import Params
from magicvideo_jax.data.tokenizer import CaptionTokenizer, build_vocabulary
from magicvideo_jax.experiment.config import Component, ModelConfig
from magicvideo_jax.experiment.opening.initial_weights import initial_weights, with_vae_of
from magicvideo_jax.experiment.pipeline import load
from magicvideo_jax.experiment.run_folder import RunFolder
from magicvideo_jax.experiment.setup import set_up_or_resume
from magicvideo_jax.models.vae import VAEConfig
from magicvideo_jax.models.video_vae import TemporalDecoderConfig
from magicvideo_jax.training.checkpoint import Checkpoints
from magicvideo_jax.weights.components import VAE

TEMPORAL = TemporalDecoderConfig(places=(0, 1), window=2, heads=2)


pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    build_vocabulary(["a", "red", "circle"], folder, length=MODEL.text.tokens)
    return folder


def vae_of(params: Params, config: VAEConfig, *, at_work: bool = True) -> Params:
    """The same VAE with temporal layers, which do something or (zeros) nothing."""
    shapes = VAE.network(config).shapes
    drawn, there = flatten(random_params(shapes, 1)), flatten(params["vae"])
    return unflatten({path: there.get(path, at_work * leaf) for path, leaf in drawn.items()})


@pytest.fixture(scope="module")
def weights(tmp_path_factory, tokenizer) -> dict[str, str]:
    """An image model; the same with temporal layers in its VAE, at work or idle, with another encoder, or scaling."""
    place = tmp_path_factory.mktemp("weights")
    size = CaptionTokenizer(tokenizer, length=MODEL.text.tokens).vocabulary_size
    model = replace(MODEL, text=replace(MODEL.text, vocabulary=size))
    params, video = random_model(model), replace(model.vae, temporal=TEMPORAL)
    encoder = {**params["vae"], "encoder": jax.tree.map(lambda x: 2 * x, params["vae"]["encoder"])}
    rows = {
        "image": (model, params),
        "video": (replace(model, vae=video), params | {"vae": vae_of(params, video)}),
        "idle": (replace(model, vae=video), params | {"vae": vae_of(params, video, at_work=False)}),
        "encoder": (model, params | {"vae": encoder}),
        "scaling": (replace(model, vae=replace(model.vae, scaling=1.0)), params),
    }
    return {name: written(place / name, *row, tokenizer) for name, row in rows.items()}


def test_weights_that_carry_a_video_vae_bring_it(weights):
    assert initial_weights(weights["video"]).fitted(ModelConfig()).vae.temporal == TEMPORAL
    assert initial_weights(weights["image"]).fitted(ModelConfig()).vae.temporal is None
    asked = replace(ModelConfig(), vae=VAEConfig(temporal=TEMPORAL))
    assert initial_weights(weights["image"]).fitted(asked).vae.temporal == TEMPORAL  # to train one


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("encoder", "the weights of the encoder"),
        ("scaling", r"scaling 1.0 and 0.18215"),
        ("scratch", "no VAE"),
    ],
)
def test_a_vae_of_other_latents_is_refused(weights, name: str, said: str):
    with pytest.raises(UserError, match=rf"config.vae_from=.*{said}"):
        with_vae_of(
            initial_weights(weights["image"]), weights.get(name, name), argument="config.vae_from"
        )


def test_a_run_takes_the_vae_that_its_config_names(weights, tmp_path):
    folder = RunFolder(tmp_path)
    folder.create()
    experiment = tiny(init_from=weights["image"], vae_from=weights["video"])
    with closing(Checkpoints(tmp_path)) as checkpoints:
        state = set_up_or_resume(experiment, folder, checkpoints).state
    there = initial_weights(weights["video"]).parts[Component.VAE]
    expected = flatten(there.load(there.network().shapes))
    found = flatten(state.frozen["vae"])
    assert found.keys() == expected.keys()
    assert all((found[path] == expected[path]).all() for path in found)
    assert folder.experiment().model.vae.temporal == TEMPORAL  # previews and `sample` need no more


def test_a_pipeline_decodes_with_another_vae(weights):
    pipe = load(weights["idle"])  # layers that do nothing yet
    pipe.experiment = replace(pipe.experiment, data=tiny().data, sample=tiny().sample)
    picture = pipe("a red circle")
    assert picture.shape == (1, 16, 16, 3)
    with pytest.raises(UserError, match=r"--vae=.*latents of another VAE"):
        pipe.decode_with(weights["encoder"])
    pipe.decode_with(weights["video"])
    assert (pipe("a red circle") != picture).any()
    pipe.decode_with(weights["idle"])
    np.testing.assert_array_equal(pipe("a red circle"), picture)
