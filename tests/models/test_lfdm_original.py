"""The twins in torch, against which LFDM's networks, losses and samplers are tested, equal its own code.

LFDM_CHECKOUT=FOLDER of https://github.com/nihaomiao/CVPR23_LFDM at 3601635, of which nothing is kept here.
"""

import importlib
import os
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from einops import rearrange
from torch import nn
from torch_flow_unet import Rotary, TorchFlowUNet
from torch_latent_flow import TorchLatentFlow
from torch_latent_flow_loss import torch_features, torch_loss
from torch_norms import randomise_norms
from torch_weights import randomise, relative_error

from magicvideo_jax.core.keys import subkey
from magicvideo_jax.diffusion.known_schedules import LFDM_NOISE
from magicvideo_jax.diffusion.sampler import run_sampler
from magicvideo_jax.diffusion.schedule import schedule_of
from magicvideo_jax.diffusion.solvers import SolverTable, ddpm, lfdm_ddim
from magicvideo_jax.models.lfdm.flow_unet import FlowUNetConfig, FlowUpsampling
from magicvideo_jax.models.lfdm.hourglass import HourglassConfig
from magicvideo_jax.models.lfdm.latent_flow import LatentFlowConfig
from magicvideo_jax.training.equivariance import draw_warp

CHECKOUT = os.environ.get("LFDM_CHECKOUT", "")
pytestmark = [
    pytest.mark.skipif(not CHECKOUT, reason="LFDM_CHECKOUT names no checkout of LFDM's code"),
    pytest.mark.filterwarnings("ignore"),
]


class OriginalRotary(Rotary):
    """The part of rotary_embedding_torch that LFDM calls."""

    def __init__(self, width: int):
        assert width == 32
        super().__init__()

    rotate_queries_or_keys = Rotary.forward


STAND_INS: dict[str, dict[str, Any]] = {
    "torchvision": {
        "transforms": SimpleNamespace(ToTensor=lambda: None, ToPILImage=lambda: None),
        "models": None,
    },
    "skimage": {},
    "skimage.draw": {"disk": None},
    "einops_exts": {
        "rearrange_many": lambda many, how, **sizes: (rearrange(x, how, **sizes) for x in many)
    },
    "rotary_embedding_torch": {"RotaryEmbedding": OriginalRotary},
}
"""Libraries that LFDM imports and this project does not install, each with what is used of it."""


@pytest.fixture(autouse=True)
def importable(monkeypatch) -> None:
    """Make the checkout importable, and its `.cuda()` do nothing."""
    import transformers  # noqa: F401  (before the stand-ins, of which its probes make errors)

    for name, members in STAND_INS.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.syspath_prepend(CHECKOUT)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)


def original(name: str) -> ModuleType:
    """A module of the checkout."""
    return importlib.import_module(name)


def pictures(seed: int, side: int) -> torch.Tensor:
    """Two smooth pictures in [0, 1], of float64."""
    draw = np.random.default_rng(seed).uniform(0, 1, (2, 9, 9, 3)).astype(np.float32)
    smooth = jnp.clip(jax.image.resize(draw, (2, side, side, 3), "cubic"), 0, 1)
    return torch.from_numpy(np.asarray(smooth).transpose(0, 3, 1, 2).copy()).double()


SMALL = LatentFlowConfig(
    regions=3,
    region_net=HourglassConfig(4, 16, 3),
    background_net=HourglassConfig(4, 16, 3),
    flow_net=HourglassConfig(4, 16, 3),
    width=4,
    max_width=16,
    residuals=2,
)


def auto_encoder_and_twin(config: LatentFlowConfig) -> tuple[Any, TorchLatentFlow]:
    """Their three networks with the weights of the twin, loaded by name, all of them."""

    def sizes(net: HourglassConfig) -> dict[str, int]:
        return {
            "block_expansion": net.width,
            "max_features": net.max_width,
            "num_blocks": net.blocks,
        }

    both = {"num_regions": config.regions, "num_channels": 3}
    flow = {
        **sizes(config.flow_net),
        "scale_factor": 0.25,
        "use_deformed_source": True,
        "use_covar_heatmap": True,
        "estimate_occlusion_map": True,
    }
    twin = randomise_norms(TorchLatentFlow(config))
    twin.region_predictor.regions.weight.data *= 0.1  # regions of a few pixels, as trained ones
    theirs = nn.Module()
    theirs.region_predictor = original("LFAE.modules.region_predictor").RegionPredictor(
        **both,
        **sizes(config.region_net),
        estimate_affine=True,
        temperature=0.1,
        scale_factor=0.25,
        pca_based=True,
        fast_svd=False,
        **({} if config.padded_regions else {"pad": 0}),
    )
    theirs.bg_predictor = original("LFAE.modules.bg_motion_predictor").BGMotionPredictor(
        num_channels=3, **sizes(config.background_net), bg_type="affine"
    )
    theirs.generator = original("LFAE.modules.generator").Generator(
        **both,
        block_expansion=config.width,
        max_features=config.max_width,
        num_down_blocks=config.downs,
        num_bottleneck_blocks=config.residuals,
        pixelwise_flow_predictor_params=flow,
        skips=True,
        revert_axis_swap=True,
    )
    theirs.load_state_dict(twin.state_dict(), strict=True)
    return theirs.eval(), twin


@pytest.mark.parametrize("padded", [False, True], ids=["MHAD", "MUG"])
def test_the_auto_encoders_twin_is_theirs(padded: bool):
    """Float64, because steep sampling positions make errors of 2e-5 in float32."""
    theirs, twin = auto_encoder_and_twin(replace(SMALL, padded_regions=padded))
    for one in (theirs, twin):
        one.double()
    source, driving = pictures(0, 64), pictures(1, 64)
    with torch.no_grad():
        made = theirs.generator(
            source,
            source_region_params=theirs.region_predictor(source),
            driving_region_params=theirs.region_predictor(driving),
            bg_params=theirs.bg_predictor(source, driving),
        )
        feature = twin.generator.feature(source)[-1]
        by_flow = theirs.generator.forward_with_flow(
            source, made["optical_flow"], made["occlusion_map"]
        )
        again = [made["optical_flow"], made["occlusion_map"], made["prediction"], made["deformed"]]
        for ours, one in zip(twin(source, driving), again, strict=True):
            assert relative_error(ours, one) < 1e-6
    assert relative_error(feature, made["bottle_neck_feat"]) < 1e-6
    assert relative_error(by_flow["prediction"], made["prediction"]) < 1e-6


NATOPS = {"learned_null": True, "upsampling": FlowUpsampling.NEAREST}


@pytest.mark.parametrize("changes", [{}, NATOPS], ids=["MHAD and MUG", "NATOPS"])
def test_the_unets_twin_is_theirs(changes: dict[str, Any]):
    config = replace(
        FlowUNetConfig(width=8, multipliers=(1, 2), heads=2, groups=4, condition=6, feature=5),
        **changes,
    )
    twin = randomise(TorchFlowUNet(config))
    theirs = original("DM.modules.video_flow_diffusion").Unet3D(
        dim=config.width,
        cond_dim=config.condition,
        dim_mults=config.multipliers,
        channels=3 + config.feature,
        attn_heads=config.heads,
        resnet_groups=config.groups,
        learn_null_cond=config.learned_null,
        use_deconv=not changes,
        padding_mode="reflect" if changes else "zeros",
    )
    theirs.load_state_dict(twin.state_dict(), strict=True)
    draw = torch.Generator().manual_seed(0)
    z = torch.randn(2, 3, 12, 8, 8, generator=draw)
    feature = torch.randn(2, 5, 8, 8, generator=draw)
    condition = torch.randn(2, 6, generator=draw)
    time = torch.tensor([3.0, 907.0])
    x = torch.cat([z, feature[:, :, None].expand(-1, -1, 12, -1, -1)], 1)
    with torch.no_grad():
        for has in (1.0, 0.0):
            expected = theirs(x, time, cond=condition, null_cond_prob=1 - has)
            ours = twin(z, time, feature, condition, torch.full((2,), has))
            assert relative_error(ours, expected) < 1e-5


KEYS = jax.random.split(jax.random.key(3), 2)
START = np.random.default_rng(0).normal(size=(2, 4, 4, 4, 3)).astype(np.float32)


class AnyNetwork(nn.Module):
    """A function of latents and time, whose estimates leave [-1, 1]."""

    def forward_with_cond_scale(self, x, time, cond=None, cond_scale=1.0) -> torch.Tensor:
        return torch.sin(x) + 0.5 * x + time.reshape(-1, 1, 1, 1, 1) / 1000


def denoise(z: jax.Array, time: jax.Array, _) -> jax.Array:
    return jnp.sin(z) + 0.5 * z + time.reshape(-1, 1, 1, 1, 1) / 1000


def sampled(table: SolverTable) -> np.ndarray:
    run = jax.jit(lambda z, table: run_sampler(denoise, z, None, table=table, keys=KEYS))
    return np.moveaxis(np.asarray(run(START, table)), -1, 1)


def diffusion(monkeypatch, steps: int, *, first_step: int = 0) -> Any:
    """Their diffusion, whose start and noise are those of our sampler."""
    theirs = original("DM.modules.video_flow_diffusion").GaussianDiffusion(
        AnyNetwork(), image_size=4, num_frames=4, sampling_timesteps=steps, use_dynamic_thres=True
    )
    steps_done = iter(range(first_step, 1000))

    def noise(like: torch.Tensor) -> torch.Tensor:
        i = next(steps_done)
        drawn = [
            jax.random.normal(jax.random.fold_in(subkey(key, "sampler noise"), i), START.shape[1:])
            for key in KEYS
        ]
        return torch.from_numpy(np.moveaxis(np.stack(drawn), -1, 1).copy()).to(like)

    monkeypatch.setattr(torch, "randn_like", noise)
    start = torch.from_numpy(np.moveaxis(START, -1, 1).copy())
    monkeypatch.setattr(torch, "randn", lambda *_, **__: start)
    return theirs


NOTHING = torch.zeros(2, 0, 4, 4)


def test_the_schedule_is_theirs(monkeypatch):
    theirs = diffusion(monkeypatch, 10).alphas_cumprod
    np.testing.assert_allclose(schedule_of(LFDM_NOISE).alphas_cumprod, theirs, rtol=1e-6)


@pytest.mark.parametrize("steps", [10, 37])
def test_ddim_is_theirs(monkeypatch, steps: int):
    theirs = diffusion(monkeypatch, steps).ddim_sample(NOTHING, START.shape)
    assert relative_error(sampled(lfdm_ddim(LFDM_NOISE, steps)), theirs) < 1e-5


def test_ddpm_is_theirs(monkeypatch):
    """The last 30 of all 1000 steps."""
    last = 30
    theirs = diffusion(monkeypatch, 1000, first_step=1000 - last)
    table = ddpm(LFDM_NOISE, 1000)
    table = replace(table, steps=type(table.steps)(*(x[-last:] for x in table.steps)))
    z = torch.from_numpy(np.moveaxis(START, -1, 1).copy())
    for time in range(last)[::-1]:
        z = theirs.p_sample(z, torch.full((2,), time), NOTHING)
    assert relative_error(sampled(table), z) < 1e-5


class TwoMaps(nn.Module):
    """The stand-in for VGG-19 that the tests of losses have."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return torch_features(x)


LOSS_WEIGHTS = {"perceptual": [10, 10], "equivariance_shift": 10, "equivariance_affine": 10}
TRAINING = {
    "scales": [1, 0.5, 0.25, 0.125],
    "loss_weights": LOSS_WEIGHTS,
    "transform_params": {"sigma_affine": 0.05, "sigma_tps": 0.005, "points_tps": 5},
}


def test_the_losses_twin_is_theirs_with_gradients_and_statistics(monkeypatch):
    """Float64, but for the kernels of their blurs."""
    module = original("LFAE.modules.model")
    monkeypatch.setattr(module, "Vgg19", TwoMaps)
    theirs, twin = auto_encoder_and_twin(SMALL)
    theirs.generator.num_channels = 3
    model = module.ReconstructionModel(
        theirs.region_predictor, theirs.bg_predictor, theirs.generator, TRAINING
    )
    for one in (model, twin):
        one.double().train().requires_grad_(True)
    warp = draw_warp(jax.random.key(0), 2, affine=0.05, bends=0.005)
    theta, bends = (torch.from_numpy(np.array(x)).double() for x in warp)
    drawn = iter([theta - torch.eye(2, 3), bends.reshape(2, 1, -1)])
    monkeypatch.setattr(torch, "normal", lambda **_: next(drawn))
    source, driving = pictures(0, 64), pictures(1, 64)
    losses, _ = model({"source": source, "driving": driving})
    loss = sum(losses.values())
    ours = torch_loss(twin, source, driving, jax.tree.map(lambda x: np.asarray(x, "f8"), warp))
    assert float(ours) == pytest.approx(float(loss), rel=1e-6)
    loss.backward()
    ours.backward()
    gradients = dict(theirs.named_parameters())
    largest = max(float(x.grad.abs().max()) for x in gradients.values())
    for name, x in twin.named_parameters():
        np.testing.assert_allclose(x.grad, gradients[name].grad, atol=1e-5 * largest, rtol=1e-4)
    statistics = dict(theirs.named_buffers())
    for name, x in twin.named_buffers():
        if "num_batches" in name:  # their norm does not count
            continue
        np.testing.assert_allclose(x, statistics[name], rtol=1e-6, atol=1e-8, err_msg=name)
