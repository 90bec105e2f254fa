"""The train step of a preset on this machine's accelerator: seconds, clips a second, memory, and where its time goes.

    python benchmarks/accelerator.py [--config configs/t2v.py:sd15] [--batch 4] [--remat none] [--trace DIR]

Weights and latents are random, and batches at hand: what is timed is the compiled step alone, as `train` runs it.
Prints one JSON line; with --trace, the operations that the profiler saw, longest first. `tflops` is the arithmetic of
the step as it is written (core/flops.py) over its time: without rematerialisation, over the chip's peak, the MFU.
"""

import argparse
import json
import re
import runpy
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from magicvideo_jax.core.flops import flops
from magicvideo_jax.core.protocols import Params
from magicvideo_jax.core.tree import count, flatten, unflatten
from magicvideo_jax.experiment.config import Experiment, read_experiment
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.workfolder import shapes_of, split_trained
from magicvideo_jax.training.objectives import denoising
from magicvideo_jax.training.optimizer import make_optimizer
from magicvideo_jax.training.state import fresh_state
from magicvideo_jax.training.step import Compiled, train_step

ROUNDS = 10


def experiment_of(config: str, remat: str) -> Experiment:
    """A preset of a config file."""
    file, _, preset = config.partition(":")
    chosen = runpy.run_path(file)["get_config"](preset)
    chosen.model.remat = remat
    return read_experiment(chosen)


def random_params(shapes: Params) -> Params:
    """Small numbers everywhere: their values take no part in the time of a step."""
    some = 0.02 * np.random.default_rng(0).standard_normal(2**20, np.float32)
    return unflatten({path: np.resize(some, s.shape) for path, s in flatten(shapes).items()})


def random_batch(experiment: Experiment, networks: Networks, batch: int) -> dict[str, np.ndarray]:
    """Clips as `prepare` leaves them: latents, and captions as ids."""
    rng = np.random.default_rng(1)
    shape = (batch, *networks.latent_shape(experiment.data.frames, experiment.data.size))
    return {
        "latents": rng.standard_normal(shape, np.float32),
        "ids": rng.integers(0, experiment.model.text.vocabulary, (batch, experiment.model.text.tokens), np.int32),
        "fps": np.full(batch, 8, np.float32),
    }


class Steps:
    """A run's step with a state of its own."""

    def __init__(self, experiment: Experiment, params: Params, batch: int):
        networks = Networks(experiment.model)
        optimizer = make_optimizer(experiment.optim, experiment.train.steps)
        trained, frozen = split_trained(params, experiment)
        create = jax.jit(partial(fresh_state, optimizer=optimizer), donate_argnums=0)
        self._state = create(jax.device_put(trained))._replace(frozen=jax.device_put(frozen))
        self._batch = jax.device_put(random_batch(experiment, networks, batch))
        objective = denoising(
            networks.parts(),
            experiment.model.noise,
            experiment.denoising,
            null_ids=np.zeros(experiment.model.text.tokens, np.int32),
        )
        step = partial(
            train_step, objective=objective, optimizer=optimizer, ema_decay=experiment.optim.ema, seed=experiment.seed
        )
        self._step = Compiled(step, self._state)
        began = time.perf_counter()
        self.flops = flops(self._step.traced(self._state, self._batch).jaxpr)
        self.program = self._step.program(self._state, self._batch)
        self.compiled_in = time.perf_counter() - began

    def run(self, number: int) -> float:
        """Seconds a step."""
        began = time.perf_counter()
        for _ in range(number):
            self._state, metrics = self._step(self._state, self._batch)
        jax.block_until_ready((self._state, metrics))
        return (time.perf_counter() - began) / number


def operations(trace: Path, program: str, steps: int) -> list[tuple[str, float]]:
    """What the device did, in milliseconds a step: kernels by the JAX operation that they came from, longest first."""
    origins = dict(re.findall(r"%([\w.-]+) = .*?metadata=\{.*?op_name=\"([^\"]*)\"", program))
    found: dict[str, float] = defaultdict(float)
    for file in trace.rglob("*.xplane.pb"):
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
            if not plane.name.startswith("/device:"):
                continue
            for line in plane.lines:
                if not line.name.startswith("Stream"):
                    continue
                for event in line.events:
                    stats = dict(event.stats)
                    origin = origins.get(str(stats.get("hlo_op", "")), "")
                    found[f"{_operation(origin)} | {event.name[:60]}"] += event.duration_ns / 1e6 / steps
    return sorted(found.items(), key=lambda pair: -pair[1])


def _operation(origin: str) -> str:
    """`jit(step)/transpose(jvp(..))/.../dot_general` -> `dot_general, backward`."""
    name = origin.rsplit("/", 1)[-1] or "?"
    return f"{name}{', backward' if 'transpose(' in origin else ''}{', again' if 'rematted' in origin else ''}"


def measure(config: str, batch: int, remat: str, trace: Path | None) -> dict[str, Any]:
    """One line of results; with `trace`, its operations beside it."""
    experiment = experiment_of(config, remat)
    params = random_params(shapes_of(Networks(experiment.model), experiment))
    steps = Steps(experiment, params, batch)
    steps.run(2)
    seconds = [steps.run(1) for _ in range(ROUNDS)]
    memory = jax.local_devices()[0].memory_stats() or {}
    found = {
        "benchmark": "accelerator",
        "device": jax.local_devices()[0].device_kind,
        "config": config,
        "remat": remat,
        "parameters": count(params),
        "clips": batch,
        "seconds": round(float(np.median(seconds)), 4),
        "clips_per_second": round(batch / float(np.median(seconds)), 3),
        "tflops": round(steps.flops / float(np.median(seconds)) / 1e12, 1),
        "compile_seconds": round(steps.compiled_in, 1),
        "peak_gib": round(memory.get("peak_bytes_in_use", 0) / 2**30, 2),
    }
    if trace is not None:
        with jax.profiler.trace(str(trace)):
            steps.run(3)
        found["operations"] = operations(trace, steps.program.as_text(), 3)
    return found


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--config", default="configs/t2v.py:sd15")
    arguments.add_argument("--batch", type=int, default=4)
    arguments.add_argument("--remat", default="none")
    arguments.add_argument("--trace", type=Path)
    asked = arguments.parse_args()
    found = measure(asked.config, asked.batch, asked.remat, asked.trace)
    table = found.pop("operations", [])
    print(json.dumps(found), flush=True)
    for name, milliseconds in table[:40]:
        print(f"{milliseconds:9.3f} ms  {name}")
