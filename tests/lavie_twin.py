"""LaVie's three U-Nets in PyTorch: diffusers' image U-Net with the published temporal layers hooked in.

Written from the equations of LaVie (2309.15103) and the key names of its checkpoints. `twin.frames` is the number of
frames of a clip, whose images stand side by side in diffusers' batch.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from einops import rearrange
from torch import nn
from torch.nn import functional
from torch_weights import randomise

from magicvideo_jax.models.temporal import LAVIE, LAVIE_INTERPOLATION, LAVIE_VSR
from magicvideo_jax.models.unet import UNetConfig, UNetLevelConfig

ROPE = 32


class ClipNorm(nn.GroupNorm):
    """Group norm over all frames of a clip."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        clips = rearrange(x, "(b f) c h w -> b c f h w", f=self.clip.frames)
        return rearrange(super().forward(clips), "b c f h w -> (b f) c h w")


class Rotary(nn.Module):
    """The shared rotary embedding: a parameter that is a constant."""

    def __init__(self):
        super().__init__()
        exponents = torch.arange(0, ROPE, 2, dtype=torch.float32) / ROPE
        self.freqs = nn.Parameter(1.0 / 10_000**exponents, requires_grad=False)

    def rotate_queries_or_keys(self, x: torch.Tensor) -> torch.Tensor:
        angle = torch.outer(torch.arange(x.shape[-2], dtype=torch.float32), self.freqs)
        even, odd = x[..., :ROPE:2], x[..., 1:ROPE:2]
        turned = torch.stack(
            [even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos()], -1
        )
        return torch.cat([turned.flatten(-2), x[..., ROPE:]], -1)


class RelativeBias(nn.Module):
    """T5's bias of a query at i and a key at j, by a loop over the published buckets."""

    def __init__(self, heads: int):
        super().__init__()
        self.relative_attention_bias = nn.Embedding(32, heads)

    def forward(self, frames: int) -> torch.Tensor:
        def bucket(i: int, j: int) -> int:
            n = abs(i - j)
            near = n if n < 8 else min(15, 8 + math.floor(8 * math.log(n / 8) / math.log(4)))
            return near + (16 if j > i else 0)

        rows = [[bucket(i, j) for j in range(frames)] for i in range(frames)]
        return self.relative_attention_bias(torch.tensor(rows)).permute(2, 0, 1)


class FrameAttention(nn.Module):
    """Attention over frames, with a rotary embedding and a bias or with neither."""

    def __init__(self, width: int, heads: int, rotary: Rotary | None):
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width), nn.Dropout(0.0)])
        self.heads = heads
        if rotary is not None:
            self.time_rel_pos_bias = RelativeBias(heads)
            self.rotary_emb = rotary

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            rearrange(layer(x), "p f (n d) -> p n f d", n=self.heads)
            for layer in (self.to_q, self.to_k, self.to_v)
        )
        q = q * q.shape[-1] ** -0.5
        bias: Any = 0.0
        if hasattr(self, "rotary_emb"):
            q, k = (
                self.rotary_emb.rotate_queries_or_keys(q),
                self.rotary_emb.rotate_queries_or_keys(k),
            )
            bias = self.time_rel_pos_bias(x.shape[1])
        weights = (q @ k.transpose(-1, -2) + bias).softmax(-1)
        return self.to_out[0](rearrange(weights @ v, "p n f d -> p f (n d)"))


class Block(nn.Module):
    """A transformer block with attention over frames, in the place and by the names of its network."""

    def __init__(
        self, block: BasicTransformerBlock, twin: nn.Module, *, names: tuple[str, str], **how: Any
    ):
        super().__init__()
        for name in ("norm1", "attn1", "norm2", "attn2", "norm3", "ff"):
            setattr(self, name, getattr(block, name))
        width, heads = block.norm1.normalized_shape[0], block.attn1.heads
        self.attention, self.norm = names
        setattr(self, self.attention, FrameAttention(width, heads, how["rotary"]))
        setattr(self, self.norm, nn.LayerNorm(width))
        object.__setattr__(self, "clip", twin)
        self.sparse, self.text_only = how["sparse"], block.only_cross_attention

    def forward(
        self, x: torch.Tensor, encoder_hidden_states: torch.Tensor, **_: Any
    ) -> torch.Tensor:
        text = encoder_hidden_states
        if self.text_only:
            x = x + self.attn1(self.norm1(x), text)
        elif self.sparse:
            x = x + self._first_and_previous(self.norm1(x))
        else:
            x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), text)
        if not self.sparse:
            x = x + self._over_frames(x)
        x = x + self.ff(self.norm3(x))
        return x + self._over_frames(x) if self.sparse else x

    def _over_frames(self, x: torch.Tensor) -> torch.Tensor:
        f, p = self.clip.frames, x.shape[1]
        pixels = rearrange(x, "(b f) p c -> (b p) f c", f=f)
        mixed = getattr(self, self.attention)(getattr(self, self.norm)(pixels))
        return rearrange(mixed, "(b p) f c -> (b f) p c", p=p)

    def _first_and_previous(self, x: torch.Tensor) -> torch.Tensor:
        attention, clips = self.attn1, rearrange(x, "(b f) p c -> b f p c", f=self.clip.frames)
        out = []
        for i in range(self.clip.frames):
            source = torch.cat([clips[:, 0], clips[:, max(i - 1, 0)]], dim=1)
            out.append(attention(clips[:, i], source))
        return rearrange(torch.stack(out, 1), "b f p c -> (b f) p c")


class FrameResnet(nn.Module):
    """Residual block with convolutions over `kernel` and over 3 frames; input b c f h w."""

    def __init__(self, width: int, kernel: int, emb: int | None):
        super().__init__()
        self.norm1, self.norm2 = (nn.GroupNorm(32, width, eps=1e-6) for _ in range(2))
        self.conv1 = nn.Conv3d(width, width, (kernel, 1, 1), padding=(kernel // 2, 0, 0))
        self.conv2 = nn.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0))
        if emb is not None:
            self.time_emb_proj = nn.Linear(emb, width)

    def forward(self, x: torch.Tensor, emb: torch.Tensor | None = None) -> torch.Tensor:
        h = self.conv1(functional.silu(self.norm1(x)))
        if emb is not None:
            h = h + self.time_emb_proj(functional.silu(emb))[:, :, None, None, None]
        return x + self.conv2(functional.silu(self.norm2(h)))


class ImageResnet(nn.Module):
    """The usual residual block, with norms over the clip; input b c f h w."""

    def __init__(self, width: int, emb: int):
        super().__init__()
        self.norm1, self.norm2 = (nn.GroupNorm(32, width, eps=1e-6) for _ in range(2))
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.time_emb_proj = nn.Linear(emb, width)

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        h = _by_frame(self.conv1, functional.silu(self.norm1(x)))
        h = h + self.time_emb_proj(functional.silu(emb))[:, :, None, None, None]
        return x + _by_frame(self.conv2, functional.silu(self.norm2(h)))


class LevelModule(nn.Module):
    """The temporal module after a level; input b c f h w."""

    def __init__(self, width: int, emb: int):
        super().__init__()
        self.resblocks_3d_t = FrameResnet(width, 5, emb)
        self.resblocks_3d_s = ImageResnet(width, emb)
        self.shift_conv = nn.Conv2d(width, width, 1)

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        return x + _by_frame(self.shift_conv, self.resblocks_3d_s(self.resblocks_3d_t(x, emb), emb))


def _by_frame(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    images = layer(rearrange(x, "b c f h w -> (b f) c h w"))
    return rearrange(images, "(b f) c h w -> b c f h w", f=x.shape[2])


def base_twin(unet: UNet2DConditionModel) -> nn.Module:
    """LaVie's base network made of an image U-Net, in place."""
    _insert(unet, names=("attn_temp", "norm_temp"), rotary=Rotary(), sparse=False)
    return unet


def interpolation_twin(unet: UNet2DConditionModel) -> nn.Module:
    """LaVie's interpolation network made of an image U-Net, in place."""
    _insert(unet, names=("attn_temp", "norm_temp"), rotary=None, sparse=True)
    return unet


def vsr_twin(unet: UNet2DConditionModel) -> nn.Module:
    """LaVie's super-resolution network made of an x4 upscaler's U-Net, in place."""
    unet.temporal_rotary_emb = Rotary()
    names = ("attn_temporal", "norm_temporal")
    _insert(unet, names=names, rotary=unet.temporal_rotary_emb, sparse=False)
    widths = list(unet.config.block_out_channels)
    emb = 4 * widths[0]

    def before(module: Transformer2DModel, inputs: tuple, options: dict) -> tuple:
        x, *rest = inputs
        clips = rearrange(x, "(b f) c h w -> b c f h w", f=unet.frames)
        return (_images(module.resblock_temporal(clips)), *rest), options

    for module in unet.modules():
        if isinstance(module, Transformer2DModel):
            module.resblock_temporal = FrameResnet(module.norm.num_channels, 3, None)
            module.register_forward_pre_hook(before, with_kwargs=True)

    unet.down_temporal_blocks = nn.ModuleList([LevelModule(w, emb) for w in widths])
    unet.mid_temporal_block = LevelModule(widths[-1], emb)
    unet.up_temporal_blocks = nn.ModuleList([LevelModule(w, emb) for w in reversed(widths)])
    for way in ("down", "up"):
        for block, added in zip(
            getattr(unet, f"{way}_blocks"), getattr(unet, f"{way}_temporal_blocks"), strict=True
        ):
            block.register_forward_hook(_after(unet, added), with_kwargs=True)
    unet.mid_block.register_forward_hook(_after(unet, unet.mid_temporal_block), with_kwargs=True)
    return unet


def _after(unet: nn.Module, added: nn.Module) -> Callable[..., Any]:
    def hook(_: nn.Module, inputs: tuple, options: dict, output: Any) -> Any:
        emb = options["temb"] if "temb" in options else inputs[1]
        x, *skips = output if isinstance(output, tuple) else (output,)
        clips = rearrange(x, "(b f) c h w -> b c f h w", f=unet.frames)
        x = _images(added(clips, emb[:: unet.frames]))
        return (x, *skips) if isinstance(output, tuple) else x

    return hook


def _images(clips: torch.Tensor) -> torch.Tensor:
    return rearrange(clips, "b c f h w -> (b f) c h w")


def _insert(unet: UNet2DConditionModel, **how: Any) -> None:
    """Norms over the clip, and attention over frames in every transformer block."""
    for name, module in list(unet.named_modules()):
        if isinstance(module, nn.GroupNorm) and ".attentions." not in name:
            module.__class__ = ClipNorm
            object.__setattr__(module, "clip", unet)
        if isinstance(module, Transformer2DModel):
            blocks = [Block(block, unet, **how) for block in module.transformer_blocks]
            module.transformer_blocks = nn.ModuleList(blocks)


def call(
    twin: nn.Module, z: torch.Tensor, time: Any, text: torch.Tensor, level: Any = None
) -> torch.Tensor:
    """The network on clips b c f h w, one time, text and noise level for each."""
    frames = z.shape[2]
    object.__setattr__(twin, "frames", frames)
    time, text, level = (
        None if x is None else x.repeat_interleave(frames, 0) for x in (time, text, level)
    )
    with torch.no_grad():
        images = twin(_images(z), time, text, class_labels=level).sample
    return rearrange(images, "(b f) c h w -> b c f h w", f=frames)


class Tiny(NamedTuple):
    """One of the networks in a tiny size: its twin with random weights, and our configuration of it."""

    twin: UNet2DConditionModel
    config: UNetConfig
    diffusers: Mapping[str, Any]
    """Arguments of diffusers' image network."""
    has_levels: bool
    """Whether the network is told a noise level."""


_TINY = {
    "block_out_channels": (64, 64),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 64,
    "attention_head_dim": 2,
}
_TINY_VSR = {
    "block_out_channels": (32, 64, 64),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 48,
    "attention_head_dim": 2,
    "in_channels": 7,
    "use_linear_projection": True,
    "num_class_embeds": 1000,
    "only_cross_attention": [True, True, False],
}
_IMAGE = UNetConfig(
    levels=(UNetLevelConfig(64, 2), UNetLevelConfig(64, 0)), middle_heads=2, blocks=1, context=64
)
_UPSCALER = UNetConfig(
    levels=(UNetLevelConfig(32, 0), UNetLevelConfig(64, 2, text_only=True), UNetLevelConfig(64, 2)),
    middle_heads=2,
    blocks=1,
    context=48,
    channels_in=7,
    linear_projection=True,
    noise_levels=1000,
)
KINDS = ("base", "interpolation", "vsr")


@cache
def tiny_twin(kind: str) -> Tiny:
    """Heads of 32 channels where there is a rotary embedding, which takes no fewer; 8 heads where no bias tells the
    number."""
    make, config, diffusers = {
        "base": (base_twin, replace(_IMAGE, temporal=LAVIE), _TINY),
        "interpolation": (
            interpolation_twin,
            replace(
                _IMAGE,
                levels=(UNetLevelConfig(64, 8), UNetLevelConfig(64, 0)),
                middle_heads=8,
                temporal=LAVIE_INTERPOLATION,
                channels_in=8,
            ),
            _TINY | {"in_channels": 8, "attention_head_dim": 8},
        ),
        "vsr": (vsr_twin, replace(_UPSCALER, temporal=LAVIE_VSR), _TINY_VSR),
    }[kind]
    twin = randomise(make(UNet2DConditionModel(**diffusers)))
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            if name.endswith("freqs"):
                parameter.copy_(Rotary().freqs)
            if name.startswith("conv_out."):
                # With outputs of size 1 guided sampling is chaotic: a change of 1e-6 in the first noise becomes one of
                # 0.2 after 20 steps.
                parameter *= 0.1
    return Tiny(twin, config, diffusers, kind == "vsr")


def weights_of(twin: nn.Module) -> dict[str, torch.Tensor]:
    """The state of a twin without the constants of the rotary embedding."""
    return {key: x for key, x in twin.state_dict().items() if not key.endswith("freqs")}
