"""The train step of a preset on one accelerator: seconds, clips a second, memory, and where its time goes.

    python benchmarks/accelerator.py [--config configs/t2v.py:sd15] [--batch 4] [--remat none] [--trace DIR]

Weights and latents are random, and batches at hand: what is timed is the compiled step alone, as `train` runs it.
Prints one JSON line; with --trace, the operations that the profiler saw, longest first. `tflops` is the arithmetic of
the step as it is written (planning/flops.py) over its time: without rematerialisation, over the chip's peak, the MFU.
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
import jax.numpy as jnp
import numpy as np

from magicvideo_jax.core.tree import count_parameters
from magicvideo_jax.experiment.config import read_experiment
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.shapes import AbstractRun, abstract_run, fit_to_weights
from magicvideo_jax.parallel.mesh import MeshConfig, make_mesh
from magicvideo_jax.planning.flops import count_flops
from magicvideo_jax.training.state import fresh_state
from magicvideo_jax.training.step import CompiledStep

ROUNDS = 10


def run_of(config: str, batch: int, remat: str) -> AbstractRun:
    """A preset of a config file, on clips as `prepare` leaves them: latents, and captions as ids."""
    file, _, preset = config.partition(":")
    chosen = runpy.run_path(file)["get_config"](preset)
    chosen.model.remat, chosen.train.batch_size = remat, batch
    chosen.data.update(sources=({"path": "latents that need not be here"},), encoded=0)
    experiment = fit_to_weights(read_experiment(chosen))
    return abstract_run(
        experiment, Networks(experiment.model), make_mesh(MeshConfig(), jax.devices()[:1])
    )


def random_like(shapes: Any) -> Any:
    """Small numbers in their places: their values take no part in the time of a step."""
    rng = np.random.default_rng(0)
    some = 0.02 * rng.standard_normal(2**20, np.float32)

    def one(x: jax.ShapeDtypeStruct) -> jax.Array:
        is_number = jnp.issubdtype(x.dtype, jnp.floating)
        values = np.resize(some, x.shape) if is_number else rng.integers(0, 1000, x.shape)
        return jax.device_put(values.astype(x.dtype), x.sharding)

    return jax.tree.map(one, shapes)


class Steps:
    """A run's step with a state of its own."""

    def __init__(self, run: AbstractRun):
        places = jax.tree.map(lambda x: x.sharding, run.state)
        create = jax.jit(
            partial(fresh_state, optimizer=run.optimizer),
            donate_argnums=0,
            out_shardings=places._replace(frozen={}),
        )
        self._state = create(random_like(run.state.params))._replace(
            frozen=random_like(run.state.frozen)
        )
        self._batch = random_like(run.batch)
        self._step = CompiledStep(run.step, run.state)
        began = time.perf_counter()
        self.flops = count_flops(self._step.trace(self._state, self._batch).jaxpr)
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
                    found[f"{_operation(origin)} | {event.name[:60]}"] += (
                        event.duration_ns / 1e6 / steps
                    )
    return sorted(found.items(), key=lambda pair: -pair[1])


def _operation(origin: str) -> str:
    """`jit(step)/transpose(jvp(..))/.../dot_general` -> `dot_general, backward`."""
    name = origin.rsplit("/", 1)[-1] or "?"
    return f"{name}{', backward' if 'transpose(' in origin else ''}{', again' if 'rematted' in origin else ''}"


def measure(config: str, batch: int, remat: str, trace: Path | None) -> dict[str, Any]:
    """One line of results; with `trace`, its operations beside it."""
    run = run_of(config, batch, remat)
    steps = Steps(run)
    steps.run(2)
    seconds = [steps.run(1) for _ in range(ROUNDS)]
    memory = jax.local_devices()[0].memory_stats() or {}
    found = {
        "benchmark": "accelerator",
        "device": jax.local_devices()[0].device_kind,
        "config": config,
        "remat": remat,
        "parameters": count_parameters(run.state.params) + count_parameters(run.state.frozen),
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
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
