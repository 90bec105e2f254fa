"""The same network on diffusers and torch.compile: a training step, and a sampler's steps.

bfloat16 by autocast with float32 masters, AdamW and an average in fused kernels; in sampling bfloat16 parameters.
"""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

from device_slots.slot import READY, Line, Size, Slot

if TYPE_CHECKING:
    import torch
    from torch_video_unet import TorchVideoUNet

CLIPS, FRAMES, SIDE, TOKENS = 12, 16, 32, 77
WIDTHS, HEADS = (320, 640, 1280, 1280), 8
STEPS = 20
_TFLOP_A_CLIP = 3.045
"""One pass of a clip, as this project counts its own (`subject.forward_flops`)."""


class _Shapes:
    """Sizes of what is measured, and the device."""

    def __init__(self, size: Size, clips: int):
        import torch

        is_tiny = size is Size.TINY
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.clips, self.frames = (2, 2) if is_tiny else (clips, FRAMES)
        self.side, self.widths = (4, (32, 32)) if is_tiny else (SIDE, WIDTHS)
        self.is_tiny = is_tiny

    def network(self) -> "TorchVideoUNet":
        import torch
        from torch_video_unet import TorchVideoUNet

        torch.manual_seed(0)
        with torch.device(self.device):
            return TorchVideoUNet(
                self.widths, heads=HEADS, frames=self.frames, blocks=1 if self.is_tiny else 2
            )

    def compiled(self, network: "TorchVideoUNet") -> Any:
        """The network in channels-last layout, as torch.compile has it; a rehearsal only traces it."""
        import torch

        network = network.to(memory_format=torch.channels_last)  # pyright: ignore
        how = {"backend": "aot_eager"} if self.is_tiny else {"mode": "max-autotune-no-cudagraphs"}
        return torch.compile(network, dynamic=False, **how)

    def inputs(self, dtype: "torch.dtype", clips: int) -> "list[torch.Tensor]":
        """Latents of (clips frames), times, text states, frame rates."""
        import torch

        draw = torch.Generator(self.device).manual_seed(0)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=draw, device=self.device).to(dtype)

        z = normal(clips * self.frames, 4, self.side, self.side)
        z = z.to(memory_format=torch.channels_last)
        times = torch.full((clips,), 500.0, device=self.device)
        return [z, times, normal(clips, TOKENS, 768), torch.full_like(times, 8.0)]

    def seconds(self, run: Any, calls: int) -> float:
        """Seconds of a call, the median of four rounds."""
        import torch

        def wait() -> None:
            if self.device == "cuda":
                torch.cuda.synchronize()

        found = []
        for _ in range(4):
            wait()
            began = time.perf_counter()
            for _ in range(calls):
                run()
            wait()
            found.append((time.perf_counter() - began) / calls)
        return float(np.median(found))

    def peak_gib(self) -> float:
        import torch

        return round(torch.cuda.max_memory_allocated() / 2**30, 2) if self.device == "cuda" else 0.0


def train(size: Size) -> Iterator[Line]:
    """A training step of as many clips as `train_12` has: forward, backward, clipping, AdamW, average."""
    import torch

    shapes = _Shapes(size, CLIPS)
    network = shapes.network()
    compiled = shapes.compiled(network)
    inputs = shapes.inputs(torch.float32, shapes.clips)
    target = torch.randn_like(inputs[0])
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, weight_decay=0.01, fused=True)
    average = [p.detach().clone() for p in parameters]

    def backward() -> torch.Tensor:
        optimizer.zero_grad()
        low: AbstractContextManager[Any] = torch.autocast(shapes.device, torch.bfloat16)
        with low:
            loss = torch.nn.functional.mse_loss(compiled(*inputs).float(), target)
        loss.backward()
        return loss

    def step() -> torch.Tensor:
        loss = backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, parameters, 1e-4)
        return loss

    began = time.perf_counter()
    backward()
    compiled_in = time.perf_counter() - began
    optimizer.zero_grad()
    if shapes.device == "cuda":
        torch.cuda.empty_cache()
    yield READY
    losses = [float(step()) for _ in range(3)]
    seconds = shapes.seconds(step, 1 if shapes.is_tiny else 5)
    yield {
        "batch": shapes.clips,
        "parameters": sum(p.numel() for p in parameters),
        "seconds": round(seconds, 4),
        "clips_per_second": round(shapes.clips / seconds, 3),
        "tflops_per_second": round(3 * _TFLOP_A_CLIP * shapes.clips / seconds, 1),
        "peak_gib": shapes.peak_gib(),
        "compile_seconds": round(compiled_in, 1),
        "first_losses": [round(loss, 5) for loss in losses],
    }


def sample(size: Size) -> Iterator[Line]:
    """Twenty passes of a clip with and without its text, as guidance makes them; without a solver or decoding."""
    import torch

    shapes = _Shapes(size, 1)
    network = shapes.network().to(torch.bfloat16).requires_grad_(False)
    compiled = shapes.compiled(network)
    inputs = shapes.inputs(torch.bfloat16, 2)

    def passes() -> None:
        with torch.inference_mode():
            for _ in range(STEPS):
                compiled(*inputs)

    began = time.perf_counter()
    passes()
    compiled_in = time.perf_counter() - began
    yield READY
    seconds = shapes.seconds(passes, 1)
    yield {
        "steps": STEPS,
        "evaluations": 2 * STEPS,
        "seconds_a_clip_without_decoding": round(seconds, 4),
        "tflops_per_second": round(2 * STEPS * _TFLOP_A_CLIP / seconds, 1),
        "peak_gib": shapes.peak_gib(),
        "compile_seconds": round(compiled_in, 1),
    }


_NEEDS = ("torch", "diffusers")
TORCH_TRAIN = Slot("torch_train", "12 clips on diffusers", train, seconds=60, needs=_NEEDS)
TORCH_SAMPLE = Slot(
    "torch_sample", "20 guided steps on diffusers", sample, seconds=45, needs=_NEEDS
)
