"""Networks are shown frames as their metrics say, and a batch that is filled up changes no row."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch_weights import randomise, relative_error
from transformers import CLIPConfig, CLIPModel

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.data.tokenizer import CaptionTokenizer, build_vocabulary
from magicvideo_jax.evaluation import feature_extractors
from magicvideo_jax.evaluation.feature_extractors import (
    C3D_MEAN_FILE,
    EXTRACTORS,
    FeatureExtractor,
)
from magicvideo_jax.evaluation.frame_fitting import fit_frames
from magicvideo_jax.evaluation.protocols import PROTOCOLS
from magicvideo_jax.evaluation.resizing import c3d_frames, resize_tf1
from magicvideo_jax.models.clip_vision import clip_images
from magicvideo_jax.weights.feature_networks import FeatureNetwork

TATS = PROTOCOLS["tats"]


def clips(number: int, frames: int, side: int = 20) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (number, frames, side, side, 3), np.uint8)


def summary(x: jnp.ndarray) -> jnp.ndarray:
    """What a network is shown, in few numbers: every 37th pixel of the first row, and the mean."""
    rows = x.reshape(len(x), -1)
    return jnp.concatenate([rows[:, ::9973], rows.mean(1, keepdims=True)], axis=1)


@pytest.fixture
def opened(monkeypatch):
    """A function that opens an extractor whose network is `summary`."""
    eps = {}

    def load(kind, path, *, argument, **options):
        eps[kind] = options.get("eps")
        scale = 0.01 if kind == "c3d" else 1  # or its softmax has a single one
        return FeatureNetwork(lambda _, x: summary(x * scale), {}, "0a1b2c3d", None, "a summary")

    monkeypatch.setattr(feature_extractors, "load_feature_network", load)

    def open_network(kind: str, protocol=TATS, path="file.pt") -> FeatureExtractor:
        network = EXTRACTORS[kind](str(path), protocol, argument=f"--network={kind}")
        assert eps[kind] == (protocol.eps if kind == "i3d" else None)
        return network

    return open_network


@pytest.mark.parametrize("name", ["original", "tats", "videogpt", "lavie"])
def test_i3d_is_shown_frames_in_minus_one_to_one_as_the_protocol_fits_them(opened, name: str):
    protocol = replace(PROTOCOLS[name], frames=9)
    x = clips(3, 9)
    rows = opened("i3d", protocol).extract(x, [""] * 3)
    shown = fit_frames(jnp.asarray(x, jnp.float32), 224, protocol) / 127.5 - 1
    np.testing.assert_allclose(rows[:, 0], summary(shown), atol=2e-6)
    assert -1 <= rows.min() < -0.9


def test_inception_is_shown_every_frame_as_tensorflow_resized_it(opened):
    x = clips(2, 3)
    rows = opened("inception").extract(x, [""] * 2)
    shown = (resize_tf1(jnp.asarray(x, jnp.float32), 299, 299) - 128) / 128
    assert rows.shape[:2] == (2, 3)
    for clip, frames in zip(rows, shown, strict=True):
        np.testing.assert_allclose(clip, summary(frames), atol=2e-6)


def test_c3d_gives_probabilities_and_needs_the_mean_of_its_clips(opened, tmp_path):
    x, file = clips(2, 16), tmp_path / "c3d.npz"
    with pytest.raises(UserError, match=C3D_MEAN_FILE):
        opened("c3d", path=file)
    mean = np.random.default_rng(1).uniform(90, 130, (3, 16, 128, 171)).astype(np.float32)
    np.savez(tmp_path / C3D_MEAN_FILE, mean=mean)
    rows = opened("c3d", path=file).extract(x, [""] * 2)
    shown = c3d_frames(
        jnp.asarray(x, jnp.float32) / 127.5 - 1, jnp.asarray(np.moveaxis(mean, 0, -1))
    )
    np.testing.assert_allclose(rows[:, 0], jax.nn.softmax(summary(shown / 100)), rtol=1e-4)


def test_the_last_batch_is_filled_up_and_changes_no_row(opened):
    network, x = opened("i3d", replace(TATS, frames=9)), clips(5, 9)
    alone = [network.extract(x[i : i + 1], [""]) for i in range(5)]
    np.testing.assert_array_equal(network.extract(x, [""] * 5), np.concatenate(alone))


@pytest.mark.parametrize(
    ("kind", "frames", "said"),
    [("i3d", 8, "--frames=8: I3D takes 9 frames or more"), ("c3d", 9, "C3D takes clips of 16")],
)
def test_clips_of_a_wrong_length_are_refused_before_weights_are_read(kind: str, frames, said: str):
    with pytest.raises(UserError, match=said):
        EXTRACTORS[kind]("nowhere", replace(TATS, frames=frames), argument=f"--network={kind}")


def test_clipsim_is_the_cosine_that_transformers_gives(tmp_path):
    build_vocabulary(["a", "red", "heart", "moves"], tmp_path, length=9)
    tokenize = CaptionTokenizer(tmp_path, length=9)
    sizes = {"hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 2}
    end = tokenize.vocabulary_size - 1
    text = sizes | {"intermediate_size": 80, "max_position_embeddings": 9, "eos_token_id": end}
    config = CLIPConfig(
        text_config=text | {"vocab_size": end + 1, "bos_token_id": end - 1},
        vision_config=sizes | {"intermediate_size": 96, "image_size": 24, "patch_size": 8},
        projection_dim=20,
    )
    model = randomise(CLIPModel(config)).eval()
    model.save_pretrained(tmp_path)
    captions, x = ["a red heart", "red moves"], clips(2, 3, side=24)
    network = EXTRACTORS["clip"](str(tmp_path), TATS, argument="--network=clip")
    rows = network.extract(x, captions)
    assert network.known is None  # of no published size
    with torch.no_grad():
        words = model.get_text_features(torch.from_numpy(tokenize(captions)).long())
        words = getattr(words, "pooler_output", words)
        for clip, row, word in zip(x, rows, words, strict=True):
            shown = np.asarray(clip_images(jnp.asarray(clip, jnp.float32) / 127.5 - 1, 24))
            images = model.get_image_features(torch.tensor(shown.transpose(0, 3, 1, 2)))
            images = getattr(images, "pooler_output", images)
            cosines = torch.cosine_similarity(images, word[None])
            assert relative_error(row[:, 0], cosines.numpy()) < 1e-4
