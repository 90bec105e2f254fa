"""Where a step's time goes, from a trace of JAX's profiler."""

import re
from collections import defaultdict
from pathlib import Path

import jax


def operations(trace: Path, program: str, steps: int) -> dict[str, float]:
    """Milliseconds a step of kernels by the JAX operation that they came from, longest first.

    `program` is the optimised text, which names the operations.
    """
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
                    name = f"{_operation(origin)} | {event.name[:60]}"
                    found[name] += event.duration_ns / 1e6 / steps
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def _operation(origin: str) -> str:
    """`jit(step)/transpose(jvp(..))/.../dot_general` -> `dot_general, backward`."""
    name = origin.rsplit("/", 1)[-1] or "?"
    return f"{name}{', backward' if 'transpose(' in origin else ''}{', again' if 'rematted' in origin else ''}"
