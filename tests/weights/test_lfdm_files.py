"""LFDM's checkpoints: from their files to parameters and back, bit for bit."""

import io
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_flow_unet import TorchFlowUNet
from torch_latent_flow import TorchLatentFlow
from torch_norms import randomise_norms
from torch_weights import randomise

from magicvideo_jax.convert import main as convert
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.models.lfdm.flow_unet import FlowUNetConfig, FlowUpsampling
from magicvideo_jax.models.lfdm.hourglass import HourglassConfig
from magicvideo_jax.models.lfdm.latent_flow import LatentFlowConfig
from magicvideo_jax.models.vgg19 import VGG19_LAYERS
from magicvideo_jax.weights.components import ComponentWeights, Weights, component_weights
from magicvideo_jax.weights.flow_components import (
    FLOW_UNET,
    LATENT_FLOW,
    open_class_vectors,
    open_perceptual,
)
from magicvideo_jax.weights.formats.lfdm_file import LFDMFile
from magicvideo_jax.weights.open import open_weights
from magicvideo_jax.weights.writing.write_lfdm import FlowDiffusionFileForm, LatentFlowFileForm

FLOW = LatentFlowConfig(
    regions=3,
    region_net=HourglassConfig(4, 16, 3),
    background_net=HourglassConfig(4, 16, 3),
    flow_net=HourglassConfig(4, 16, 3),
    width=4,
    max_width=8,
    residuals=2,
)
UNET = FlowUNetConfig(width=8, multipliers=(1, 2), heads=2, condition=6, feature=5)
NATOPS = replace(UNET, learned_null=True, upsampling=FlowUpsampling.NEAREST)
State = dict[str, torch.Tensor]


def flow_entries() -> dict[str, State]:
    twin = randomise_norms(TorchLatentFlow(FLOW))
    for buffer in twin.buffers():
        if buffer.dtype == torch.int64:
            buffer += 17
    names = ("region_predictor", "bg_predictor", "generator")
    return {name: getattr(twin, name).state_dict() for name in names}


def diffusion_state(config: FlowUNetConfig) -> State:
    state = randomise(TorchFlowUNet(config)).state_dict()
    schedule = {"betas": torch.rand(1000), "posterior_mean_coef2": torch.rand(1000)}
    return schedule | {f"denoise_fn.{key}": x for key, x in state.items()}


def saved(path: Path, content: dict) -> Path:
    torch.save(content, path)
    return path


def part_of(weights: Weights, name: str) -> ComponentWeights:
    (part,) = weights.parts.values()
    assert part.kind.folder == name
    return part


def same(one: State, other: State) -> None:
    assert one.keys() == other.keys()
    for key, x in one.items():
        assert x.dtype == other[key].dtype, key
        assert torch.equal(x, other[key]), key


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_the_auto_encoder_comes_back_bit_for_bit(tmp_path, monkeypatch, legacy):
    """Buffers and counters too; what belongs to training is left."""
    entries = flow_entries()
    content = {"example": 3, "epoch": 1, **entries, "optimizer": {"state": {}, "param_groups": []}}
    file = tmp_path / "flow.pth"
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    weights = open_weights(file)
    part = part_of(weights, "latent_flow")
    assert replace(part.config, max_width=8) == replace(
        FLOW,
        region_net=part.config.region_net,
        background_net=part.config.background_net,
        flow_net=part.config.flow_net,
    )
    assert "padding, as MUG's are" in weights.notes[0]
    target = tmp_path / "again.pth"
    monkeypatch.setattr(sys, "argv", ["convert", str(file), str(target), "--to=lfdm_flow"])
    convert()
    again = torch.load(target, weights_only=True)
    assert again.keys() == entries.keys()
    for name, state in entries.items():
        same(state, again[name])


@pytest.mark.parametrize("config", [UNET, NATOPS], ids=["MHAD and MUG", "NATOPS"])
def test_the_diffusion_comes_back_bit_for_bit(tmp_path, config):
    state = diffusion_state(config)
    file = saved(tmp_path / "diffusion.pth", {"example": 1, "diffusion": state})
    part = part_of(open_weights(file), "flow_unet")
    assert part.config == replace(config, groups=8)
    FlowDiffusionFileForm().write(open_weights(file), tmp_path / "again.pth")
    same(state, torch.load(tmp_path / "again.pth", weights_only=True)["diffusion"])


def test_our_own_weights_become_whole_checkpoints(tmp_path):
    """A run has no buffers: they are those that LFDM's modules begin with."""
    flow = component_weights(
        LATENT_FLOW, FLOW, params_of_file(saved(tmp_path / "a.pth", flow_entries()), "latent_flow")
    )
    LatentFlowFileForm().write(Weights({"latent_flow": flow}), tmp_path / "flow.pth")
    ours = torch.load(tmp_path / "flow.pth", weights_only=True)
    for name, state in flow_entries().items():
        assert ours[name].keys() == state.keys()
        for key, x in state.items():
            if x.dtype == torch.int64:
                assert ours[name][key] == 0
            else:
                torch.testing.assert_close(ours[name][key], x, rtol=1e-6, atol=0)

    file = saved(tmp_path / "b.pth", {"diffusion": diffusion_state(UNET)})
    unet = component_weights(FLOW_UNET, UNET, params_of_file(file, "flow_unet"))
    FlowDiffusionFileForm().write(Weights({"flow_unet": unet}), tmp_path / "diffusion.pth")
    state = torch.load(tmp_path / "diffusion.pth", weights_only=True)["diffusion"]
    schedule = {key for key in state if not key.startswith("denoise_fn.")}
    assert len(schedule) == 12
    assert all(state[key].shape == (1000,) and state[key].isfinite().all() for key in schedule)
    assert {*diffusion_state(UNET)} <= {*state}
    torch.testing.assert_close(
        state["posterior_mean_coef1"]
        + state["posterior_mean_coef2"] * state["sqrt_alphas_cumprod"],
        state["alphas_cumprod_prev"].sqrt(),
        rtol=1e-4,
        atol=1e-6,
    )


def params_of_file(file: Path, name: str) -> dict:
    part = part_of(open_weights(file), name)
    return part.load(part.shapes())


def test_full_checkpoints_have_the_published_numbers_of_keys():
    twin = TorchLatentFlow(LatentFlowConfig())
    counts = {name: len(net.state_dict()) for name, net in twin.named_children()}
    assert counts == {"region_predictor": 73, "bg_predictor": 37, "generator": 196}


def test_an_optimizer_that_is_an_object_is_named_with_what_to_do(tmp_path):
    entries = flow_entries()
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(2))])
    file = saved(tmp_path / "flow.pth", {**entries, "optimizer": optimizer})
    with pytest.raises(
        UserError,
        match=r"flow\.pth: it names torch\.optim\.adam\.Adam.*save it without: torch\.save",
    ) as error:
        open_weights(file)
    assert "\n" not in str(error.value)


def test_what_does_not_fit_is_named(tmp_path):
    entries = flow_entries()
    del entries["generator"]["final.bias"]
    entries["bg_predictor"]["more"] = torch.ones(2)
    file = saved(tmp_path / "flow.pth", entries)
    with pytest.raises(
        UserError, match=r"missing: generator\.final\.bias .*unknown: bg_predictor\.more"
    ):
        open_weights(file)


@pytest.mark.parametrize(
    ("key", "shape", "words"),
    [
        (
            "denoise_fn.downs.999999999.0.block1.proj.weight",
            (8, 8, 1, 3, 3),
            "the number 999999999",
        ),
        ("denoise_fn.time_rel_pos_bias.relative_attention_bias.weight", (32, 0), "has shape"),
        ("denoise_fn.init_conv.weight", (0, 8, 1, 7, 7), "has shape"),
    ],
)
def test_sizes_that_no_network_has_are_refused_before_one_is_built(tmp_path, key, shape, words):
    state = diffusion_state(UNET) | {key: torch.zeros(shape)}
    with pytest.raises(UserError, match=rf"b\.pth: .*{words}"):
        open_weights(saved(tmp_path / "b.pth", {"diffusion": state}))


def test_a_checkpoint_of_another_program_is_not_lfdms(tmp_path):
    file = saved(tmp_path / "gan.pth", {"generator": {"weight": torch.ones(2)}})
    assert not LFDMFile().matches(file)


def test_networks_of_flow_are_written_as_files_alone(tmp_path, monkeypatch):
    file = saved(tmp_path / "flow.pth", flow_entries())
    for arguments, words in (
        (
            (f"{tmp_path}/folder",),
            r"give --to=lfdm_flow or lfdm_diffusion, and a TARGET that ends in \.pth",
        ),
        ((f"{tmp_path}/flow.safetensors", "--to=lfdm_flow"), r"give the name of a \.pth file"),
    ):
        monkeypatch.setattr(sys, "argv", ["convert", str(file), *arguments])
        errors = io.StringIO()
        monkeypatch.setattr(sys, "stderr", errors)
        with pytest.raises(SystemExit) as end:
            convert()
        assert end.value.code == 2
        assert words.replace("\\", "") in errors.getvalue()


def test_vectors_of_classes_come_from_an_archive_by_name(tmp_path):
    vectors = {
        name: np.random.default_rng(i).normal(size=6) for i, name in enumerate(("up", "down"))
    }
    np.savez(tmp_path / "bert.npz", **vectors)
    path = str(tmp_path / "bert.npz")
    part = open_class_vectors(path, ("down", "up"), 6, argument="--vectors")
    params = part.load(part.shapes())
    np.testing.assert_allclose(params["embedding"], [vectors["down"], vectors["up"]], rtol=1e-6)
    with pytest.raises(UserError, match=r"--vectors=.*no vector of the class 'left'"):
        open_class_vectors(path, ("left",), 6, argument="--vectors")
    with pytest.raises(UserError, match=r"'up' has shape \(6,\): give 7 numbers"):
        open_class_vectors(path, ("up",), 7, argument="--vectors")


def test_vgg_is_torchvisions_file_without_its_end(tmp_path):
    state = {}
    for place, (i, o) in (*VGG19_LAYERS.items(), (30, (1, 1)), (34, (1, 1))):
        state[f"features.{place}.weight"] = torch.zeros(o, i, 3, 3)
        state[f"features.{place}.bias"] = torch.zeros(o)
    state["classifier.0.weight"] = torch.zeros(2, 2)
    file = saved(tmp_path / "vgg19.pth", state)
    part = open_perceptual(str(file), argument="config.latent_flow.vgg")
    assert len(flatten(part.shapes())) == 2 * len(VGG19_LAYERS)
    with pytest.raises(UserError, match=r"config\.latent_flow\.vgg=nowhere\.pth: no such file"):
        open_perceptual("nowhere.pth", argument="config.latent_flow.vgg")
    del state["features.28.bias"]
    with pytest.raises(UserError, match=r"missing: features\.28\.bias \(512,\)"):
        open_perceptual(str(saved(file, state)), argument="config.latent_flow.vgg")
