"""MagicVideo's U-Net in torch, to measure against: diffusers' U-Net with frame-wise adaptors, directed temporal
attention and the frame-rate embedding hooked in. As many parameters and FLOPs as this project's; random weights.
"""

from collections.abc import Sequence

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.embeddings import TimestepEmbedding, get_timestep_embedding
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel


class TorchVideoUNet(torch.nn.Module):
    """The network as a function of images of (clips frames), frame after frame."""

    def __init__(self, widths: Sequence[int], *, heads: int, frames: int, blocks: int = 2):
        super().__init__()
        self.unet = UNet2DConditionModel(
            block_out_channels=tuple(widths),
            layers_per_block=blocks,
            cross_attention_dim=768,
            attention_head_dim=heads,
            down_block_types=("CrossAttnDownBlock2D",) * (len(widths) - 1) + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (len(widths) - 1),
        )
        rate = FrameRate(widths[0], 4 * widths[0])
        self.unet.time_embedding.register_forward_hook(rate)
        added: list[torch.nn.Module] = [rate]
        for module in list(self.unet.modules()):
            hooks: list[tuple[torch.nn.Module, torch.nn.Module]] = []
            if isinstance(module, ResnetBlock2D):
                convs = module.conv1, module.conv2
                hooks = [(conv, Adaptor(conv.out_channels, frames)) for conv in convs]
            elif isinstance(module, BasicTransformerBlock):
                hooks = [(module.attn1, Adaptor(module.attn1.to_q.in_features, frames))]
            elif isinstance(module, Transformer2DModel):
                hooks = [(module, DirectedAttention(module.in_channels, heads, frames))]
            for place, hook in hooks:
                place.register_forward_hook(hook)
                added.append(hook)
        self.rate, self.added, self.frames = rate, torch.nn.ModuleList(added), frames

    def forward(
        self, z: torch.Tensor, time: torch.Tensor, text: torch.Tensor, fps: torch.Tensor
    ) -> torch.Tensor:
        """`z` is (clips frames, c, h, w); time (clips,), text (clips, l, d), fps (clips,)."""
        time, text, self.rate.fps = (x.repeat_interleave(self.frames, 0) for x in (time, text, fps))
        return self.unet(z, time, text).sample


class Adaptor(torch.nn.Module):
    """A scale and a shift for every frame; a forward hook of what it follows."""

    def __init__(self, channels: int, frames: int):
        super().__init__()
        self.scale, self.shift = (
            torch.nn.Parameter(torch.zeros(frames, channels)) for _ in range(2)
        )

    def forward(self, _module, _inputs, z: torch.Tensor) -> torch.Tensor:
        # (clips frames, c, h, w) of a convolution, (clips frames, l, c) of an attention
        scale, shift = (
            p.repeat(len(z) // len(p), 1)[(..., None, None) if z.ndim == 4 else (slice(None), None)]
            for p in (self.scale, self.shift)
        )
        return z * (1 + scale) + shift


class DirectedAttention(torch.nn.Module):
    """Attention over the frames of a pixel, added to a spatial transformer's output; its forward hook."""

    def __init__(self, channels: int, heads: int, frames: int):
        super().__init__()
        self.norm = torch.nn.LayerNorm(channels)
        self.q, self.k, self.v = (torch.nn.Linear(channels, channels, bias=False) for _ in range(3))
        self.out = torch.nn.Linear(channels, channels)
        torch.nn.init.zeros_(self.out.weight)
        torch.nn.init.zeros_(self.out.bias)
        self.heads, self.frames = heads, frames

    def forward(self, _module, inputs, outputs):
        z, f = inputs[0], self.frames
        n, c, h, w = z.shape
        b = n // f
        pixels = z.reshape(b, f, c, h, w).permute(0, 3, 4, 1, 2).reshape(b * h * w, f, c)
        tokens = self.norm(pixels)
        q, k, v = (
            project(tokens).reshape(-1, f, self.heads, c // self.heads).transpose(1, 2)
            for project in (self.q, self.k, self.v)
        )
        seen = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        seen = self.out(seen.transpose(1, 2).reshape(-1, f, c))
        added = seen.reshape(b, h, w, f, c).permute(0, 3, 4, 1, 2).reshape(z.shape)
        return (outputs[0] + added, *outputs[1:])


class FrameRate(torch.nn.Module):
    """The frame-rate embedding, added to the time embedding; its forward hook."""

    fps: torch.Tensor
    """(clips frames,), set before each pass."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.embedding, self.inputs = TimestepEmbedding(inputs, width), inputs

    def forward(self, _module, _inputs, embedding: torch.Tensor) -> torch.Tensor:
        sinusoids = get_timestep_embedding(
            self.fps, self.inputs, flip_sin_to_cos=True, downscale_freq_shift=0
        )
        return embedding + self.embedding(sinusoids.to(embedding.dtype))
