"""CLIPTextEncoder is CLIP's text encoder: parity with transformers on random weights."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from tiny import quick
from torch_weights import copied, randomise, relative_error
from transformers import CLIPTextConfig, CLIPTextModel

from magicvideo_jax.core.tree import count_parameters
from magicvideo_jax.models.bind import bind
from magicvideo_jax.models.clip_layer import Activation
from magicvideo_jax.models.clip_text import (
    VIT_H_PENULTIMATE,
    VIT_L,
    CLIPTextEncoder,
    TextConfig,
)
from magicvideo_jax.weights.tables.clip_keys import TEXT_TABLE

TINY = {"width": 32, "heads": 4, "hidden": 96, "vocabulary": 120, "tokens": 13}


def torch_encoder(config: TextConfig) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.width,
            intermediate_size=config.hidden,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=config.tokens,
            hidden_act=config.activation.value,
            # The default ids of the full vocabulary lie outside of a small one.
            bos_token_id=0,
            eos_token_id=1,
        )
    )


def some_ids(config: TextConfig, length: int) -> np.ndarray:
    return np.random.default_rng(0).integers(2, config.vocabulary, (2, length), dtype=np.int32)


@pytest.mark.parametrize("activation", Activation)
@pytest.mark.parametrize("length", [13, 6])
def test_it_equals_transformers(activation: Activation, length: int):
    config = TextConfig(**TINY, layers=3, activation=activation)
    theirs = randomise(torch_encoder(config))
    network = bind(lambda keys: CLIPTextEncoder(config, keys=keys))
    ids = some_ids(config, length)
    expected = theirs(torch.from_numpy(ids).long()).last_hidden_state
    error = relative_error(
        quick(network.apply)(copied(TEXT_TABLE, network.shapes, theirs.state_dict()), ids), expected
    )
    print(f"relative error {error:.1e}")
    assert error < 1e-4


def test_the_penultimate_form_is_the_norm_of_the_last_but_one_hidden_state():
    """Stable Diffusion 2.x: a model without OpenCLIP's last layer."""
    full = TextConfig(**TINY, layers=4, activation=Activation.GELU)
    kept = TextConfig(**TINY, layers=3, activation=Activation.GELU)
    theirs = randomise(torch_encoder(full))
    network = bind(lambda keys: CLIPTextEncoder(kept, keys=keys))
    state = {name: value for name, value in theirs.state_dict().items() if "layers.3." not in name}
    ids = some_ids(full, 13)
    hidden = theirs(torch.from_numpy(ids).long(), output_hidden_states=True).hidden_states[-2]
    expected = torch.nn.functional.layer_norm(
        hidden,
        (full.width,),
        state["final_layer_norm.weight"],
        state["final_layer_norm.bias"],
        eps=1e-5,
    )
    error = relative_error(
        quick(network.apply)(copied(TEXT_TABLE, network.shapes, state), ids), expected
    )
    print(f"relative error {error:.1e}")
    assert error < 1e-4


def test_later_tokens_do_not_change_earlier_ones():
    config = TextConfig(**TINY, layers=2)
    network = bind(lambda keys: CLIPTextEncoder(config, keys=keys))
    params = copied(TEXT_TABLE, network.shapes, randomise(torch_encoder(config)).state_dict())
    ids = some_ids(config, 13)
    changed = ids.copy()
    changed[:, 5:] = 7
    apply = quick(network.apply)
    before, after = apply(params, ids), apply(params, changed)
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert jnp.abs(before[:, 5:] - after[:, 5:]).max() > 0.1


def test_bfloat16_stays_near_float32():
    config = TextConfig(**TINY, layers=3)
    networks = [
        bind(lambda keys, dtype=dtype: CLIPTextEncoder(config, keys=keys, dtype=dtype))
        for dtype in (jnp.float32, jnp.bfloat16)
    ]
    params = copied(TEXT_TABLE, networks[0].shapes, randomise(torch_encoder(config)).state_dict())
    exact, rounded = (quick(network.apply)(params, some_ids(config, 13)) for network in networks)
    assert rounded.dtype == jnp.float32
    assert 0 < jnp.linalg.norm(rounded - exact) / jnp.linalg.norm(exact) < 0.03


# OpenCLIP ViT-H's text tower as Stable Diffusion 2.x stores it, 23 layers.
@pytest.mark.parametrize(
    ("config", "parameters"),
    [(VIT_L, 123_060_480), (VIT_H_PENULTIMATE, 340_387_840)],
    ids=["vit_l", "vit_h"],
)
def test_full_size_counts(config: TextConfig, parameters: int):
    with torch.device("meta"):
        assert sum(p.numel() for p in torch_encoder(config).parameters()) == parameters
    assert (
        count_parameters(bind(lambda keys: CLIPTextEncoder(config, keys=keys)).shapes) == parameters
    )


@pytest.mark.slow
@pytest.mark.parametrize("config", [VIT_L, VIT_H_PENULTIMATE], ids=["vit_l", "vit_h"])
def test_full_size_equals_transformers(config: TextConfig):
    theirs = randomise(torch_encoder(config))
    network = bind(lambda keys: CLIPTextEncoder(config, keys=keys))
    ids = some_ids(config, 77)
    expected = theirs(torch.from_numpy(ids).long()).last_hidden_state
    error = relative_error(
        quick(network.apply)(copied(TEXT_TABLE, network.shapes, theirs.state_dict()), ids), expected
    )
    print(f"relative error {error:.1e}")
    assert error < 1e-4
