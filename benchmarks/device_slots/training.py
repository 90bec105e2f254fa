"""The training step in variants: seconds, model FLOPs utilisation, memory, losses; and where its time goes."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np

from device_slots.operations import operations
from device_slots.slot import READY, Line, Size, Slot
from device_slots.subject import (
    forward_flops,
    peak_gib,
    random_like,
    share_of_peak,
    video_experiment,
)
from magicvideo_jax.core.tree import count_parameters
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.shapes import AbstractRun, abstract_run
from magicvideo_jax.parallel.mesh import MeshConfig, make_mesh
from magicvideo_jax.training.state import fresh_state
from magicvideo_jax.training.step import CompiledStep

WARM_UP = 3
ROUNDS, STEPS = 4, 5
_GRAPHS = "--xla_gpu_enable_command_buffer=+CONVOLUTION"


@dataclass(frozen=True)
class Variant:
    """A way to run the step."""

    name: str
    about: str
    clips: int
    xla_flags: str = ""


VARIANTS = (
    Variant("train_12", "12 clips, as it is", 12),
    Variant("train_12_graphs", "convolutions in command buffers, too", 12, _GRAPHS),
    Variant(
        "train_12_cublas", "products by cuBLASLt alone", 12, "--xla_gpu_enable_triton_gemm=false"
    ),
    Variant("train_2", "2 clips: what was measured before", 2),
    Variant("train_16", "16 clips", 16),
    Variant("train_24", "24 clips: more than 80 GB", 24),
)


class Steps:
    """A run's compiled step; its state is made when it is first needed."""

    def __init__(self, size: Size, clips: int):
        self.clips = min(clips, 2) if size is Size.TINY else clips
        self.experiment = video_experiment(size, clips=self.clips)
        self._run: AbstractRun = abstract_run(
            self.experiment,
            Networks(self.experiment.model),
            make_mesh(MeshConfig(), jax.devices()[:1]),
        )
        self._step = CompiledStep(self._run.step, self._run.state)
        began = time.perf_counter()
        self.program = self._step.program(self._run.state, self._run.batch)
        self.compiled_in = round(time.perf_counter() - began, 1)
        self.parameters = sum(
            map(count_parameters, (self._run.state.params, self._run.state.frozen))
        )

    def begin(self) -> None:
        """Put a state and a batch on the device."""
        shapes = self._run.state
        places = jax.tree.map(lambda x: x.sharding, shapes)
        create = jax.jit(
            partial(fresh_state, optimizer=self._run.optimizer),
            donate_argnums=0,
            out_shardings=places._replace(frozen={}),
        )
        state = create(random_like(shapes.params))
        self._state = state._replace(frozen=random_like(shapes.frozen))
        self._batch = random_like(self._run.batch)

    def losses(self, number: int) -> list[float]:
        """Loss of each of the next steps."""
        return [float(self._advance()["loss"]) for _ in range(number)]

    def seconds(self, number: int) -> float:
        """Seconds a step."""
        began = time.perf_counter()
        for _ in range(number):
            metrics = self._advance()
        jax.block_until_ready((self._state, metrics))
        return (time.perf_counter() - began) / number

    def _advance(self) -> dict[str, jax.Array]:
        self._state, metrics = self._step(self._state, self._batch)
        return metrics


def train(variant: Variant, size: Size) -> Iterator[Line]:
    """A variant's time, after three steps whose losses are compared."""
    steps = Steps(size, variant.clips)
    flops = 3 * steps.clips * forward_flops(steps.experiment)
    yield READY
    steps.begin()
    losses = steps.losses(WARM_UP)
    count = 1 if size is Size.TINY else STEPS
    seconds = float(np.median([steps.seconds(count) for _ in range(ROUNDS)]))
    yield {
        "variant": variant.about,
        "clips": steps.clips,
        "parameters": steps.parameters,
        "seconds": round(seconds, 4),
        "clips_per_second": round(steps.clips / seconds, 3),
        **share_of_peak(flops, seconds),
        "peak_gib": peak_gib(),
        "compile_seconds": steps.compiled_in,
        "losses": [round(loss, 6) for loss in losses],
    }


def profile(size: Size) -> Iterator[Line]:
    """Milliseconds of each operation of a step, longest first. The profiler runs a step kernel by kernel."""
    steps = Steps(size, VARIANTS[0].clips)
    yield READY
    steps.begin()
    steps.losses(2)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            steps.seconds(3)
        found = operations(Path(folder), steps.program.as_text(), 3)
    yield {"all_ms": round(sum(found.values()), 3), "kinds": len(found)}
    for name, milliseconds in list(found.items())[:60]:
        yield {"operation": name, "ms": round(milliseconds, 4)}


TRAINING = tuple(
    Slot(one.name, one.about, partial(train, one), seconds=60, xla_flags=one.xla_flags)
    for one in VARIANTS
)
PROFILE = Slot("profile", "operations of train_12", profile, seconds=120, after=VARIANTS[0].name)
