"""Memory, FLOPs and communication of a training or sampling program on a TPU topology that need
not be present.

A quick plan is computed from shapes alone; a compiled plan runs XLA's TPU compiler.
"""

import functools
import hashlib
import importlib.metadata
import itertools
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax

from magicvideo_jax.core.dataclass_dict import from_plain, to_plain
from magicvideo_jax.core.files import write_json
from magicvideo_jax.experiment.config import Experiment
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.parallel.mesh import MeshConfig, abstract_mesh, make_mesh
from magicvideo_jax.planning.collectives import find_collectives, totals_by_kind
from magicvideo_jax.planning.flops import count_flops
from magicvideo_jax.planning.hlo import LargeArray, largest_arrays
from magicvideo_jax.planning.programs import PlannedProgram, ProgramKind, build_program
from magicvideo_jax.planning.topology import Topology, compile_only_devices, parse_topology
from magicvideo_jax.runtime.compilation import cache_folder, out_of_memory_message

PLATFORM = "tpu"

# By default the compiler searches long for the best tiles of a convolution. A third of the time
# finds tiles that it estimates at half the speed (docs/plans.md). Runs keep the default, whose
# memory may differ a little: no complete step was compiled with it.
_SHORT_SEARCH = {"xla_jf_convolution_performance_target": "0.5"}

_LARGEST = 10
"""Number of arrays to list."""


@dataclass(frozen=True)
class Costs:
    """Costs of a compiled program. Bytes and XLA's numbers are per chip."""

    fits: bool
    out_of_memory_message: str = ""
    """XLA's message where the program does not fit: the memory that it needs, and its largest
    buffers."""
    arguments: int = 0
    temporaries: int = 0
    outputs: int = 0
    aliased: int = 0
    """Outputs that reuse the memory of arguments, because the state is donated."""
    program: int = 0
    """Size of the executable."""
    flops_xla: float = 0.0
    """FLOPs as XLA counts them: recomputation included, a loop's body once."""
    collectives: dict[str, Any] = field(default_factory=dict)
    """`operations` and `bytes_sent` by kind of collective."""
    largest: tuple[LargeArray, ...] = ()
    """The largest temporary arrays."""
    seconds: dict[str, float] = field(default_factory=dict)
    """CPU seconds of tracing, lowering and compiling."""
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Peak bytes of a chip's memory during execution."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.program


@dataclass(frozen=True)
class ProgramPlan:
    """Plan of a program on a topology. Bytes are per chip."""

    what: ProgramKind
    topology: str
    slices: int
    chips: int
    mesh: dict[str, int]
    batch_size: int
    inputs: dict[str, str]
    """Type and shape of each input of one example or clip, by name."""
    memory: int
    """Memory of a chip."""
    parts: dict[str, int]
    """Bytes that are live at once before activations. A step has `parameters`, `average`,
    `moments`, `frozen`, `inputs` and `gradients`; sampling has `parameters`, `gathered` (an
    estimate) and `inputs`."""
    flops: int = 0
    """FLOPs of the traced program over all chips; 0 where it was not traced."""
    costs: Costs | None = None

    @property
    def least(self) -> int:
        """Lower bound of the memory: all bytes before activations."""
        return sum(self.parts.values())


def quick_plan(
    experiment: Experiment, on: Topology, what: ProgramKind = ProgramKind.STEP
) -> ProgramPlan:
    """Plan from shapes alone, in seconds and without libtpu.

    Errors: those of a run's mesh and batch.
    """
    mesh = abstract_mesh(experiment.mesh, on.chips, on.slices)
    return _plan(build_program(what, experiment, Networks(experiment.model, PLATFORM), mesh), on)


def compiled_plan(
    experiment: Experiment, on: Topology, what: ProgramKind = ProgramKind.STEP
) -> ProgramPlan:
    """Plan of the compiled program, which takes minutes; cached in the user's cache folder.

    Errors: those of `quick_plan` and of `compile_only_devices`.
    """
    mesh = make_mesh(experiment.mesh, compile_only_devices(on))
    program = build_program(what, experiment, Networks(experiment.model, PLATFORM), mesh)
    cached = _cache_file(program, on)
    if not cached.is_file():
        write_json(cached, to_plain(_with_costs(_plan(program, on), program)))
    return _read_plan(cached)


def sweep_plans(
    experiment: Experiment, names: Iterable[str], *, fsdp: Iterable[int], clips: Iterable[int]
) -> Iterator[ProgramPlan]:
    """Yield plans of the step for all combinations of topologies, `fsdp` sizes and clips per chip.

    Plans are quick ones, or compiled ones from the cache. Combinations that do not divide are
    skipped.
    """
    networks = Networks(experiment.model, PLATFORM)
    for on, shards, clips_per_chip in itertools.product(map(parse_topology, names), fsdp, clips):
        if on.chips % shards:
            continue
        batch = clips_per_chip * on.chips * experiment.train.accumulate
        variant = replace(
            experiment,
            mesh=MeshConfig(fsdp=shards),
            train=replace(experiment.train, batch_size=batch),
        )
        program = build_program(
            ProgramKind.STEP, variant, networks, abstract_mesh(variant.mesh, on.chips)
        )
        cached = _cache_file(program, on)
        yield _read_plan(cached) if cached.is_file() else _plan(program, on)


def _plan(program: PlannedProgram, on: Topology) -> ProgramPlan:
    return ProgramPlan(
        what=program.what,
        topology=on.name,
        slices=on.slices,
        chips=on.chips,
        mesh=dict(program.mesh.shape),
        batch_size=program.batch_size,
        inputs=_described(program.inputs),
        memory=on.chip.hbm,
        parts=program.parts,
    )


def _with_costs(plan: ProgramPlan, program: PlannedProgram) -> ProgramPlan:
    clock = _Clock()
    traced = program.trace()
    clock.lap("trace")
    plan = replace(plan, flops=count_flops(traced.jaxpr))
    lowered = traced.lower()
    clock.lap("lower")
    try:
        compiled = lowered.compile(_SHORT_SEARCH)
    except jax.errors.JaxRuntimeError as error:
        message = out_of_memory_message(error)
        if message is None:
            raise
        clock.lap("compile")
        return replace(
            plan, costs=Costs(False, message, seconds=clock.seconds, versions=_versions())
        )
    clock.lap("compile")
    text, memory, cost = compiled.as_text(), compiled.memory_analysis(), compiled.cost_analysis()
    return replace(
        plan,
        costs=Costs(
            fits=True,
            arguments=memory.argument_size_in_bytes,
            temporaries=memory.temp_size_in_bytes,
            outputs=memory.output_size_in_bytes,
            aliased=memory.alias_size_in_bytes,
            program=memory.generated_code_size_in_bytes,
            flops_xla=float(cost.get("flops", 0)),
            collectives=totals_by_kind(find_collectives(text, plan.chips)),
            largest=tuple(largest_arrays(text, _LARGEST)),
            seconds=clock.seconds,
            versions=_versions(),
        ),
    )


def _read_plan(file: Path) -> ProgramPlan:
    return from_plain(ProgramPlan, json.loads(file.read_text()), str(file))


class _Clock:
    """CPU seconds of this process, by lap."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.process_time()

    def lap(self, name: str) -> None:
        now = time.process_time()
        self.seconds[name], self._last = round(now - self._last, 1), now


def _described(batch: Any) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(batch)
    return {
        ".".join(str(key.key) for key in path): f"{x.dtype} {x.shape[1:]}" for path, x in leaves
    }


def _cache_file(program: PlannedProgram, on: Topology) -> Path:
    """Cache file of a plan, named by a hash of config, inputs, topology, versions and this
    package's source.
    """
    config, inputs = to_plain(program.experiment), _described(program.inputs)
    identity = [program.what.value, config, inputs, on.name, on.slices, _versions(), _source_hash()]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
    return cache_folder() / "plans" / f"{key}.json"


@functools.cache
def _source_hash() -> str:
    """Hash of this package's source."""
    text = hashlib.sha256()
    for file in sorted(Path(__file__).parent.parent.rglob("*.py")):
        text.update(file.read_bytes())
    return text.hexdigest()


def _versions() -> dict[str, str]:
    versions = {}
    for name in ("jax", "jaxlib", "libtpu"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = ""
    return versions
