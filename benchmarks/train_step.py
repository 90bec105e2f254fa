"""A training step of a half-width video U-Net: this project over torch, side by side in one process.

    python benchmarks/train_step.py [--frames 8] [--size 32] [--rounds 4] [--threads 2] [--widths 160 320 640 640]

Both sides: forward, backward, clipping, AdamW and EMA of the same network in float32; torch's is diffusers' U-Net with
the frame-wise adaptors, directed temporal attention and frame-rate embedding hooked in. Order A B A B; the ratio is of
the fastest rounds. On a machine that others use, `--threads 1 --cpu_time` compares CPU seconds, which waiting does
not lengthen. Prints one JSON line.
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
arguments.add_argument(
    "--widths", type=int, nargs="+", default=(160, 320, 640, 640), help="channels by level"
)
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
from side_by_side import side_by_side
from torch_video_unet import TorchVideoUNet

from magicvideo_jax.core.tree import count_parameters
from magicvideo_jax.models.bind import bind
from magicvideo_jax.models.temporal import TemporalConfig
from magicvideo_jax.models.unet import UNetConfig, UNetLevelConfig, VideoUNet
from magicvideo_jax.training.optimizer import OptimConfig, make_optimizer
from magicvideo_jax.training.state import fresh_state
from magicvideo_jax.training.step import CompiledStep, train_step

HEADS = 8
LR, CLIP, EMA = 1e-5, 1.0, 0.999
Batch = dict[str, np.ndarray]


def of_jax(batch: Batch) -> tuple[Callable[[], object], int]:
    levels = tuple(
        UNetLevelConfig(width, HEADS if i < len(asked.widths) - 1 else 0)
        for i, width in enumerate(asked.widths)
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


def of_torch(batch: Batch) -> tuple[Callable[[], object], int]:
    torch.set_num_threads(asked.threads)
    unet = TorchVideoUNet(asked.widths, heads=HEADS, frames=asked.frames)
    parameters = list(unet.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=0.01, fused=True)
    average = [p.detach().clone() for p in parameters]

    def frames_first(z: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(z[0]).permute(0, 3, 1, 2).contiguous()

    z, target = frames_first(batch["z"]), frames_first(batch["target"])
    condition = [torch.from_numpy(batch[name]) for name in ("time", "text", "fps")]

    def one() -> None:
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(unet(z, *condition), target).backward()
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
            "widths": list(asked.widths),
            "threads": asked.threads,
        }
        | side_by_side(
            ours, theirs, names=("jax", "torch"), rounds=asked.rounds, cpu_time=asked.cpu_time
        )
    )
)
