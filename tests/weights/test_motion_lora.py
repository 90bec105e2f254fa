"""MotionLoRA in AnimateDiff's keys and in diffusers' is added to motion modules as torch would add it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import random_params
from tiny_experiment import MODEL
from torch_lora import save_lora

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.models.temporal import MotionModuleConfig, TemporalConfig, TemporalMixing
from magicvideo_jax.models.unet import SD1, UNetConfig
from magicvideo_jax.weights.components import UNET, ComponentWeights, component_weights
from magicvideo_jax.weights.lora.lora_files import kernel_layers, lora_forms
from magicvideo_jax.weights.lora.lora_merge import with_loras
from magicvideo_jax.weights.param_sources import GivenParams

RANK = 3


def with_motion(unet: UNetConfig, *, in_middle: bool) -> UNetConfig:
    temporal = TemporalConfig(
        frames=32,
        adaptors=False,
        mixing=TemporalMixing.NONE,
        fps=False,
        motion=MotionModuleConfig(heads=2, in_middle=in_middle),
    )
    return replace(unet, temporal=temporal)


def modules(levels: int, blocks: int, *, in_middle: bool) -> list[str]:
    """Names of motion modules, which PyTorch's programs share."""
    found = [f"down_blocks.{i}.motion_modules.{n}" for i in range(levels) for n in range(blocks)]
    found += [f"up_blocks.{i}.motion_modules.{n}" for i in range(levels) for n in range(blocks + 1)]
    return found + ["mid_block.motion_modules.0"] * in_middle


def original(module: str, attention: int, word: str) -> str:
    inside = f"{module}.temporal_transformer.transformer_blocks.0.attention_blocks.{attention}"
    return f"{inside}.processor.to_{word}_lora"


def diffusers(module: str, attention: int, word: str) -> str:
    inside = f"unet.{module}.transformer_blocks.0.attn{attention + 1}"
    return f"{inside}.processor.to_{word}_lora"


def trainers(module: str, attention: int, word: str) -> str:
    """MotionDirector's: a processor in front of the last word, also of the list of to_out."""
    inside = f"{module}.temporal_transformer.transformer_blocks.0.attention_blocks.{attention}"
    return f"{inside}.{'to_out.processor.0' if word == 'out' else f'processor.to_{word}'}_lora"


def ours(module: str, attention: int, word: str) -> str:
    place, _, number = module.rpartition(".motion_modules.")
    inside = f"{place}.stages.{number}.motion_module.transformer_blocks.0"
    return f"{inside}.attn{attention + 1}.to_{word}.kernel"


LAYERS = [(attention, word) for attention in (0, 1) for word in ("q", "k", "v", "out")]


@pytest.mark.parametrize("naming", [original, diffusers, trainers])
def test_it_is_added_as_torch_adds_it(tmp_path, naming):
    config = with_motion(MODEL.unet, in_middle=True)
    part = component_weights(UNET, config, random_params(UNET.network(config).shapes))
    base, draw = flatten(part.load(part.shapes())), torch.Generator().manual_seed(0)
    tensors, expected = {}, {path: np.asarray(x) for path, x in base.items()}
    for module in modules(2, 1, in_middle=True):
        for attention, word in LAYERS:
            path = ours(module, attention, word)
            kernel = torch.tensor(expected[path])
            down, up = (
                torch.randn(RANK, kernel.shape[0], generator=draw),
                torch.randn(kernel.shape[1], RANK, generator=draw),
            )
            key = naming(module, attention, word)
            tensors |= {f"{key}.down.weight": down, f"{key}.up.weight": up}
            expected[path] = (kernel.T + 0.8 * up @ down).T.numpy()
    file = save_lora(tmp_path / "motion.ckpt", tensors)
    merged = with_loras({"unet": part}, [f"{file}:0.8"], argument="--lora")["unet"]
    for path, x in flatten(merged.load(merged.shapes())).items():
        np.testing.assert_allclose(x, expected[path], rtol=1e-5, atol=1e-5, err_msg=path)


@pytest.mark.parametrize(("in_middle", "count"), [(True, 336), (False, 320)], ids=["v2", "v1, v3"])
def test_at_full_size_every_key_of_a_published_file_has_its_layer(in_middle, count):
    config = with_motion(SD1, in_middle=in_middle)
    parts = {"unet": ComponentWeights(UNET, config, {}, GivenParams({}, dict, ""))}
    known, forms = {}, lora_forms(parts)
    for layer in kernel_layers(parts):
        for form in forms:
            for names in form.names("unet", layer.name):
                known |= dict.fromkeys(names[:2], layer)
    found = 0
    for module in modules(4, 2, in_middle=in_middle):
        for attention, word in LAYERS:
            for naming in (original, diffusers, trainers):
                stem = naming(module, attention, word)
                for key in (f"{stem}.down.weight", f"{stem}.up.weight"):
                    assert known[key].path == ours(module, attention, word)
                    found += naming is original
    assert found == count


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (with_motion(MODEL.unet, in_middle=False), "which AnimateDiff v2 alone has"),
        (MODEL.unet, "AnimateDiff's motion modules, which the model does not have"),
    ],
    ids=["v1, v3", "an image model"],
)
def test_it_is_refused_by_a_model_without_its_modules(tmp_path, config, said):
    tensors = {}
    for module in modules(2, 1, in_middle=True):
        for attention, word in LAYERS:
            key, width = original(module, attention, word), 8 if ".0.motion" in module else 16
            tensors[f"{key}.down.weight"] = torch.ones(RANK, width)
            tensors[f"{key}.up.weight"] = torch.ones(width, RANK)
    file = save_lora(tmp_path / "motion.safetensors", tensors)
    part = component_weights(UNET, config, UNET.network(config).shapes)
    with pytest.raises(UserError, match=said) as caught:
        with_loras({"unet": part}, [str(file)], argument="--lora")
    assert "\n" not in str(caught.value)
