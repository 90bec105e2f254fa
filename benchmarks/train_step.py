"""A training step of a half-width video U-Net: this project over torch, side by side in one process.

    python benchmarks/train_step.py [--frames 8] [--size 32] [--rounds 4] [--threads 2]

Both sides: forward, backward, clipping, AdamW and EMA of the same network in float32; torch's is diffusers' U-Net with
the frame-wise adaptors, directed temporal attention and frame-rate embedding hooked in. Order A B A B; the ratio is of
the fastest rounds. Prints one JSON line.
"""

import argparse
import json
import os
from collections.abc import Callable
from functools import partial

arguments = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
arguments.add_argument("--frames", type=int, default=8)
arguments.add_argument("--size", type=int, default=32)
arguments.add_argument("--rounds", type=int, default=4)
arguments.add_argument("--threads", type=int, default=2)
asked = arguments.parse_args()

# Before either library makes its thread pool.
os.environ["OMP_NUM_THREADS"] = str(asked.threads)
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: asked.threads])

import jax
import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.embeddings import TimestepEmbedding, get_timestep_embedding
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from side_by_side import side_by_side

from magicvideo_jax.core.tree import count_parameters
from magicvideo_jax.models.bind import bind
from magicvideo_jax.models.temporal import TemporalConfig
from magicvideo_jax.models.unet import UNetConfig, UNetLevelConfig, VideoUNet
from magicvideo_jax.training.optimizer import OptimConfig, make_optimizer
from magicvideo_jax.training.state import fresh_state
from magicvideo_jax.training.step import CompiledStep, train_step

WIDTHS, HEADS = (160, 320, 640, 640), 8
LR, CLIP, EMA = 1e-5, 1.0, 0.999
Batch = dict[str, np.ndarray]


def of_jax(batch: Batch) -> tuple[Callable[[], object], int]:
    levels = tuple(
        UNetLevelConfig(width, HEADS if i < len(WIDTHS) - 1 else 0)
        for i, width in enumerate(WIDTHS)
    )
    network = bind(
        lambda keys: VideoUNet(
            UNetConfig(levels=levels, temporal=TemporalConfig(asked.frames)), keys=keys
        )
    )

    def objective(params, batch, key, step):
        output = network.apply(params, batch["z"], batch["time"], batch["text"], batch["fps"])
        return ((output - batch["target"]) ** 2).mean(), {}

    optimizer = make_optimizer(
        OptimConfig(lr=LR, warmup=0, grad_clip_norm=CLIP, ema_decay=EMA), steps=100
    )
    create = jax.jit(lambda: fresh_state(network.init(jax.random.key(0)), optimizer))
    state, placed = create(), jax.device_put(batch)
    step = partial(train_step, objective=objective, optimizer=optimizer, ema_decay=EMA, seed=0)
    run = CompiledStep(step, state)
    size = count_parameters(state.params)
    kept = [state]

    def one() -> None:
        state, metrics = run(kept.pop(), placed)
        jax.block_until_ready((state, metrics))
        kept.append(state)

    return one, size


class Adaptor(torch.nn.Module):
    """A scale and a shift for every frame; a forward hook of what it follows."""

    def __init__(self, channels: int):
        super().__init__()
        self.scale, self.shift = (
            torch.nn.Parameter(torch.zeros(asked.frames, channels)) for _ in range(2)
        )

    def forward(self, _module, _inputs, z: torch.Tensor) -> torch.Tensor:
        # (frames, c, h, w) of a convolution, (frames, l, c) of an attention
        scale, shift = (
            (p[:, :, None, None] if z.ndim == 4 else p[:, None]) for p in (self.scale, self.shift)
        )
        return z * (1 + scale) + shift


class DirectedAttention(torch.nn.Module):
    """Attention over the frames of a pixel, added to a spatial transformer's output; its forward hook."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = torch.nn.LayerNorm(channels)
        self.q, self.k, self.v = (torch.nn.Linear(channels, channels, bias=False) for _ in range(3))
        self.out = torch.nn.Linear(channels, channels)
        torch.nn.init.zeros_(self.out.weight)
        torch.nn.init.zeros_(self.out.bias)

    def forward(self, _module, inputs, outputs):
        z = inputs[0]
        f, c, h, w = z.shape
        tokens = self.norm(z.permute(2, 3, 0, 1).reshape(h * w, f, c))
        q, k, v = (
            project(tokens).reshape(h * w, f, HEADS, c // HEADS).transpose(1, 2)
            for project in (self.q, self.k, self.v)
        )
        seen = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        seen = self.out(seen.transpose(1, 2).reshape(h * w, f, c))
        return (outputs[0] + seen.reshape(h, w, f, c).permute(2, 3, 0, 1), *outputs[1:])


class FrameRate(torch.nn.Module):
    """The frame-rate embedding, added to the time embedding; its forward hook."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.embedding, self.inputs = TimestepEmbedding(inputs, width), inputs

    def forward(self, _module, _inputs, embedding: torch.Tensor) -> torch.Tensor:
        sinusoids = get_timestep_embedding(
            self.fps, self.inputs, flip_sin_to_cos=True, downscale_freq_shift=0
        )
        return embedding + self.embedding(sinusoids)


def of_torch(batch: Batch) -> tuple[Callable[[], object], int]:
    torch.set_num_threads(asked.threads)
    unet = UNet2DConditionModel(
        block_out_channels=WIDTHS, cross_attention_dim=768, attention_head_dim=HEADS
    )
    rate = FrameRate(WIDTHS[0], 4 * WIDTHS[0])
    unet.time_embedding.register_forward_hook(rate)
    added: list[torch.nn.Module] = [rate]
    for module in list(unet.modules()):
        hooks: list[tuple[torch.nn.Module, torch.nn.Module]] = []
        if isinstance(module, ResnetBlock2D):
            hooks = [(conv, Adaptor(conv.out_channels)) for conv in (module.conv1, module.conv2)]
        elif isinstance(module, BasicTransformerBlock):
            hooks = [(module.attn1, Adaptor(module.attn1.to_q.in_features))]
        elif isinstance(module, Transformer2DModel):
            hooks = [(module, DirectedAttention(module.in_channels))]
        for place, hook in hooks:
            place.register_forward_hook(hook)
            added.append(hook)
    parameters = [*unet.parameters(), *torch.nn.ModuleList(added).parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=0.01, fused=True)
    average = [p.detach().clone() for p in parameters]

    def frames_first(z: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(z[0]).permute(0, 3, 1, 2).contiguous()

    z, target = frames_first(batch["z"]), frames_first(batch["target"])
    times = torch.from_numpy(batch["time"]).expand(asked.frames)
    text = torch.from_numpy(batch["text"]).expand(asked.frames, -1, -1)
    rate.fps = torch.from_numpy(batch["fps"]).expand(asked.frames)

    def one() -> None:
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(unet(z, times, text).sample, target).backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, parameters, 1 - EMA)

    return one, sum(p.numel() for p in parameters)


rng = np.random.default_rng(0)
shape = (1, asked.frames, asked.size, asked.size, 4)
batch = {
    "z": rng.standard_normal(shape, np.float32),
    "target": rng.standard_normal(shape, np.float32),
    "time": np.full(1, 500.0, np.float32),
    "text": rng.standard_normal((1, 77, 768), np.float32),
    "fps": np.full(1, 8.0, np.float32),
}
(ours, our_size), (theirs, their_size) = of_jax(batch), of_torch(batch)
assert our_size == their_size, (our_size, their_size)
print(
    json.dumps(
        {
            "benchmark": "train_step",
            "parameters": our_size,
            "frames": asked.frames,
            "latents": asked.size,
            "threads": asked.threads,
        }
        | side_by_side(ours, theirs, names=("jax", "torch"), rounds=asked.rounds)
    )
)
