"""Motion modules of diffusers' own classes for the tiny Stable Diffusion, and their twins in other files.

AnimateDiff's keys are restated here from its code, so that the package's table is not its own witness.
"""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import MotionAdapter, StableDiffusionPipeline, UNetMotionModel
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from einops import rearrange
from tiny_pipeline import tiny_pipeline
from torch_weights import randomise

STATE = "diffusion_pytorch_model.safetensors"


class Version(NamedTuple):
    frames: int
    in_middle: bool
    norms_over_frames: bool
    """Whether residual blocks do, in AnimateDiff's own code."""


VERSIONS = {
    "v1": Version(24, False, True),
    "v2": Version(32, True, False),
    "v3": Version(32, False, False),
}


def tiny_adapter(version: str = "v3", *, seed: int = 1) -> MotionAdapter:
    frames, in_middle, _ = VERSIONS[version]
    adapter = MotionAdapter(
        block_out_channels=(64, 128),
        motion_layers_per_block=1,
        motion_max_seq_length=frames,
        use_motion_mid_block=in_middle,
    )
    return randomise(adapter, seed)


@cache
def random_pipeline() -> StableDiffusionPipeline:
    """The tiny pipeline with a U-Net whose every parameter is random."""
    pipeline = tiny_pipeline()
    randomise(pipeline.unet)
    return pipeline


@cache
def random_folder() -> Path:
    """The same as diffusers saves it; read only."""
    folder = Path(tempfile.mkdtemp(prefix="tiny_motion_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    random_pipeline().save_pretrained(folder)
    return folder


def motion_unet(version: str = "v3") -> UNetMotionModel:
    return UNetMotionModel.from_unet2d(random_pipeline().unet, tiny_adapter(version)).eval()


def original_keys(adapter: MotionAdapter) -> dict[str, torch.Tensor]:
    """An adapter's weights as AnimateDiff's own code names them, with its positions."""
    found = {}
    for key, tensor in adapter.state_dict().items():
        module, _, inside = key.partition("motion_modules.")
        number, _, inside = inside.partition(".")
        root = f"{module}motion_modules.{number}.temporal_transformer."
        if inside.endswith("pos_embed.pe"):
            for i in (0, 1):
                pe = f"transformer_blocks.0.attention_blocks.{i}.pos_encoder.pe"
                found[root + pe] = tensor.clone()
            continue
        for ours, theirs in (
            ("attn1.", "attention_blocks.0."),
            ("attn2.", "attention_blocks.1."),
            ("norm1.", "norms.0."),
            ("norm2.", "norms.1."),
            ("norm3.", "ff_norm."),
        ):
            inside = inside.replace(ours, theirs)
        found[root + inside] = tensor
    return found


class _PerFrame(torch.nn.Module):
    """A group norm whose input has its frames in an axis of their own (b c f h w), over each of them."""

    def __init__(self, norm: torch.nn.GroupNorm):
        super().__init__()
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(rearrange(x, "b c f h w -> (b f) c h w"))
        return rearrange(y, "(b f) c h w -> b c f h w", b=len(x))


class _OverFrames(torch.nn.Module):
    """A group norm whose input has its frames in the batch, over all of a clip."""

    def __init__(self, norm: torch.nn.GroupNorm, frames: int):
        super().__init__()
        self.norm, self.frames = norm, frames

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(rearrange(x, "(b f) c h w -> b c f h w", f=self.frames))
        return rearrange(y, "b c f h w -> (b f) c h w")


def with_original_norms(unet: UNetMotionModel, version: str, *, frames: int) -> UNetMotionModel:
    """The same network by AnimateDiff's convention for clips of so many frames, in place."""
    for module in list(unet.modules()):
        if isinstance(module, AnimateDiffTransformer3D):
            module.norm = _PerFrame(module.norm)
        if VERSIONS[version].norms_over_frames and isinstance(module, ResnetBlock2D):
            module.norm1 = _OverFrames(module.norm1, frames)
            module.norm2 = _OverFrames(module.norm2, frames)
    if VERSIONS[version].norms_over_frames:
        unet.conv_norm_out = _OverFrames(unet.conv_norm_out, frames)
    return unet
