"""Memory, FLOPs and communication of a training or sampling program on TPUs or GPUs that need not
be present.

A quick plan is computed from shapes alone; a compiled plan runs XLA's compiler for the chip.
"""

import functools
import hashlib
import importlib.metadata
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax

from magicvideo_jax.core.dataclass_dict import from_plain, to_plain
from magicvideo_jax.core.files import write_json
from magicvideo_jax.experiment.config import Experiment
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.parallel.mesh import MeshConfig, abstract_mesh
from magicvideo_jax.planning.chip import Chip, CompiledProgram, CompileJob, Topology
from magicvideo_jax.planning.collectives import find_collectives, totals_by_kind
from magicvideo_jax.planning.hlo import LargeArray, largest_arrays
from magicvideo_jax.planning.kernels import find_kernels
from magicvideo_jax.planning.programs import PlannedProgram, ProgramKind, build_program
from magicvideo_jax.planning.roofline import OperationCosts, costs_by_operation, total_costs
from magicvideo_jax.planning.topology import parse_topology
from magicvideo_jax.runtime.compilation import cache_folder

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
    flops_compiled: float = 0.0
    """FLOPs of the compiled program, what is recomputed included: as XLA counts them (a loop's body
    once) and of its Pallas kernels, or of the kernels of a program for GPUs."""
    collectives: dict[str, Any] = field(default_factory=dict)
    """`operations` and `bytes_sent` by kind of collective."""
    largest: tuple[LargeArray, ...] = ()
    """The largest temporary arrays."""
    operations: tuple[OperationCosts, ...] = ()
    """Kernels by class of operation; empty where XLA's text does not show them (TPUs)."""
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
    preallocated: float
    """Share of it that JAX takes unless it is told otherwise."""
    parts: dict[str, int]
    """Bytes that are live at once before activations. A step has `parameters`, `average`,
    `moments`, `frozen`, `inputs` and `gradients`; sampling has `parameters`, `gathered` (an
    estimate) and `inputs`."""
    flops: int = 0
    """FLOPs of the traced program over all chips; 0 where it was not traced."""
    costs: Costs | None = None
    exchanges: dict[str, Any] = field(default_factory=dict)
    """What devices that share a clip send at a step of it, by kind of split: fields of a `SplitExchange`."""

    @property
    def least(self) -> int:
        """Lower bound of the memory: all bytes before activations."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether the compiled program fits the memory that JAX takes unless it is told otherwise."""
        if self.costs is None or not self.costs.fits:
            return False
        return self.costs.total <= self.preallocated * self.memory


def quick_plan(
    experiment: Experiment, on: Topology, what: ProgramKind = ProgramKind.STEP
) -> ProgramPlan:
    """Plan from shapes alone, in seconds and without the chip's compiler.

    Errors: those of a run's mesh and batch.
    """
    mesh = abstract_mesh(experiment.mesh, on.chips, on.slices)
    return _plan(build_program(what, experiment, _networks(experiment, on), mesh), on)


def compiled_plan(
    experiment: Experiment, on: Topology, what: ProgramKind = ProgramKind.STEP
) -> ProgramPlan:
    """Plan of the compiled program, which takes minutes; cached in the user's cache folder.

    Errors: those of `quick_plan` and of the chip's compiler.
    """
    mesh = abstract_mesh(experiment.mesh, on.chips, on.slices)
    program = build_program(what, experiment, _networks(experiment, on), mesh)
    cached = _cache_file(program, on)
    if not cached.is_file():
        compiled = on.chip.compiler.compile(CompileJob(what, experiment, on))
        plan = replace(
            _plan(program, on), flops=compiled.flops, costs=_costs(compiled, on, _versions(on.chip))
        )
        write_json(cached, to_plain(plan))
    return _read_plan(cached)


def sweep_plans(
    experiment: Experiment, names: Iterable[str], *, fsdp: Iterable[int], clips: Iterable[int]
) -> Iterator[ProgramPlan]:
    """Yield plans of the step for all combinations of topologies, `fsdp` sizes and clips per chip.

    Plans are quick ones, or compiled ones from the cache. Combinations that do not divide are
    skipped.
    """
    networks_on = functools.cache(lambda platform: Networks(experiment.model, platform))
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
            ProgramKind.STEP,
            variant,
            networks_on(on.chip.compiler.platform),
            abstract_mesh(variant.mesh, on.chips),
        )
        cached = _cache_file(program, on)
        yield _read_plan(cached) if cached.is_file() else _plan(program, on)


def _networks(experiment: Experiment, on: Topology) -> Networks:
    return Networks(experiment.model, on.chip.compiler.platform)


def _plan(program: PlannedProgram, on: Topology) -> ProgramPlan:
    return ProgramPlan(
        what=program.what,
        topology=on.name,
        slices=on.slices,
        chips=on.chips,
        mesh=dict(program.mesh.shape),
        batch_size=program.batch_size,
        inputs=_described(program.inputs),
        memory=on.chip.memory,
        preallocated=on.chip.preallocated,
        parts=program.parts,
        exchanges={kind: to_plain(one) for kind, one in program.exchanges.items()},
    )


def _costs(compiled: CompiledProgram, on: Topology, versions: dict[str, str]) -> Costs:
    if compiled.out_of_memory_message:
        message = compiled.out_of_memory_message
        return Costs(False, message, seconds=compiled.seconds, versions=versions)
    text, memory, rates = compiled.text, compiled.memory, on.chip.rates
    operations = costs_by_operation(find_kernels(text), rates) if rates else ()
    xla = compiled.flops_xla
    return Costs(
        fits=True,
        arguments=memory.arguments,
        temporaries=memory.temporaries,
        outputs=memory.outputs,
        aliased=memory.aliased,
        program=memory.program,
        flops_compiled=float(total_costs(operations).flops) if xla is None else xla,
        collectives=totals_by_kind(find_collectives(text, on.chips)),
        largest=tuple(largest_arrays(text, _LARGEST)),
        operations=operations,
        seconds=compiled.seconds,
        versions=versions,
    )


def _read_plan(file: Path) -> ProgramPlan:
    return from_plain(ProgramPlan, json.loads(file.read_text()), str(file))


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
    identity = [program.what.value, config, inputs, on.name, on.slices]
    identity += [_versions(on.chip), _source_hash()]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
    return cache_folder() / "plans" / f"{key}.json"


@functools.cache
def _source_hash() -> str:
    """Hash of this package's source."""
    text = hashlib.sha256()
    for file in sorted(Path(__file__).parent.parent.rglob("*.py")):
        text.update(file.read_bytes())
    return text.hexdigest()


def _versions(chip: Chip) -> dict[str, str]:
    versions = {}
    for name in ("jax", "jaxlib", *chip.compiler.packages):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = ""
    return versions
