"""The Stable Diffusion 1.5 U-Net forward: this project over diffusers on torch, side by side in one process.

    python benchmarks/unet_forward.py [--frames 4] [--size 32] [--rounds 4] [--threads 2]

float32, random weights of the same shapes, order A B A B; the ratio is of the fastest rounds. Prints one JSON line.
"""

import argparse
import json
import os
from collections.abc import Callable

arguments = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
arguments.add_argument("--frames", type=int, default=4)
arguments.add_argument("--size", type=int, default=32)
arguments.add_argument("--rounds", type=int, default=4)
arguments.add_argument("--threads", type=int, default=2)
arguments.add_argument(
    "--cpu_time", action="store_true", help="CPU time instead of wall clock, for a busy machine"
)
asked = arguments.parse_args()

# Before either library makes its thread pool.
os.environ["OMP_NUM_THREADS"] = str(asked.threads)
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: asked.threads])

import jax
import numpy as np
import torch
from diffusers import UNet2DConditionModel
from side_by_side import side_by_side

from magicvideo_jax.core.tree import count_parameters
from magicvideo_jax.models.bind import bind
from magicvideo_jax.models.unet import SD1, VideoUNet
from magicvideo_jax.runtime.compilation import jit


def of_jax(z: np.ndarray, text: np.ndarray) -> tuple[Callable[[], object], int]:
    network = bind(lambda keys: VideoUNet(SD1, keys=keys))
    params = jax.jit(network.init)(jax.random.key(0))
    inputs = (z[None], np.full(1, 500.0, np.float32), text)
    forward = jit(network.apply).lower(params, *inputs).compile()
    placed = jax.device_put(inputs)
    return lambda: jax.block_until_ready(forward(params, *placed)), count_parameters(params)


def of_torch(z: np.ndarray, text: np.ndarray) -> tuple[Callable[[], object], int]:
    torch.set_num_threads(asked.threads)
    unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8).eval()
    images = torch.from_numpy(z).permute(0, 3, 1, 2).contiguous()
    states = torch.from_numpy(text).expand(asked.frames, -1, -1)

    def forward() -> object:
        with torch.inference_mode():
            return unet(images, torch.full((asked.frames,), 500.0), states).sample

    return forward, sum(p.numel() for p in unet.parameters())


rng = np.random.default_rng(0)
z = rng.standard_normal((asked.frames, asked.size, asked.size, 4), np.float32)
text = rng.standard_normal((1, 77, 768), np.float32)
(ours, our_size), (theirs, their_size) = of_jax(z, text), of_torch(z, text)
assert our_size == their_size, (our_size, their_size)
print(
    json.dumps(
        {
            "benchmark": "unet_forward",
            "parameters": our_size,
            "frames": asked.frames,
            "latents": asked.size,
            "threads": asked.threads,
        }
        | side_by_side(
            ours, theirs, names=("jax", "torch"), rounds=asked.rounds, cpu_time=asked.cpu_time
        )
    )
)
