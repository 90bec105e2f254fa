"""What a training step, or sampling, takes on chips that nobody need have: quickly from shapes alone, or compiled."""

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

# By default the compiler looks long for the best tiles of a convolution. A third of the time suffices for tiles that it
# holds to be half as good (docs/plans.md). Runs keep the default, whose memory may differ a little: no whole step was
# compiled with it.
_SHORT_SEARCH = {"xla_jf_convolution_performance_target": "0.5"}

_LARGEST = 10
"""Arrays that are listed."""


@dataclass(frozen=True)
class Costs:
    """Of the compiled program; bytes and XLA's numbers are those of one chip."""

    fits: bool
    out_of_memory_message: str = ""
    """XLA's words where it does not fit: what it would take, and its largest buffers."""
    arguments: int = 0
    temporaries: int = 0
    outputs: int = 0
    aliased: int = 0
    """Outputs that take the place of arguments: the state is donated."""
    program: int = 0
    """The code itself."""
    flops_xla: float = 0.0
    """As XLA counts them: what it computes twice counts twice, a loop's body once."""
    collectives: dict[str, Any] = field(default_factory=dict)
    """By kind: `operations`, and `bytes_sent`."""
    largest: tuple[LargeArray, ...] = ()
    """The largest arrays that it makes."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Of CPU time, by what took it."""
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Bytes of a chip's memory while it runs."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.program


@dataclass(frozen=True)
class ProgramPlan:
    """What is known of a program on a topology; bytes are those of one chip."""

    what: ProgramKind
    topology: str
    slices: int
    chips: int
    mesh: dict[str, int]
    batch_size: int
    inputs: dict[str, str]
    """Arrays of an example, or of a clip to be, by name."""
    memory: int
    """Of a chip."""
    parts: dict[str, int]
    """Of a step `parameters`, `average`, `moments`, `frozen`, `inputs` and `gradients`, of sampling `parameters`,
    `gathered` (about) and `inputs`: at least these are there at once."""
    flops: int = 0
    """Over all chips, counted in the program as it is written; 0 where it was not traced."""
    costs: Costs | None = None

    @property
    def least(self) -> int:
        """Bytes before activations."""
        return sum(self.parts.values())


def quick_plan(
    experiment: Experiment, on: Topology, what: ProgramKind = ProgramKind.STEP
) -> ProgramPlan:
    """From shapes alone, in seconds, without libtpu. Errors: what a run of it would say of mesh and batch."""
    mesh = abstract_mesh(experiment.mesh, on.chips, on.slices)
    return _plan(build_program(what, experiment, Networks(experiment.model, PLATFORM), mesh), on)


def compiled_plan(
    experiment: Experiment, on: Topology, what: ProgramKind = ProgramKind.STEP
) -> ProgramPlan:
    """With what XLA makes of it, which takes minutes; kept in the user's cache folder.

    Errors: those of `quick_plan`; no libtpu; slices it does not know.
    """
    mesh = make_mesh(experiment.mesh, compile_only_devices(on))
    program = build_program(what, experiment, Networks(experiment.model, PLATFORM), mesh)
    kept = _kept(program, on)
    if not kept.is_file():
        write_json(kept, to_plain(_with_costs(_plan(program, on), program)))
    return _read(kept)


def sweep_plans(
    experiment: Experiment, names: Iterable[str], *, fsdp: Iterable[int], clips: Iterable[int]
) -> Iterator[ProgramPlan]:
    """Quick plans of the step, for several slices, ways to spread the state, and clips a chip; with their costs, those
    that were compiled before. What does not divide is left out."""
    networks = Networks(experiment.model, PLATFORM)
    for on, ways, number in itertools.product(map(parse_topology, names), fsdp, clips):
        if on.chips % ways:
            continue
        batch = number * on.chips * experiment.train.accumulate
        asked = replace(
            experiment,
            mesh=MeshConfig(fsdp=ways),
            train=replace(experiment.train, batch_size=batch),
        )
        program = build_program(
            ProgramKind.STEP, asked, networks, abstract_mesh(asked.mesh, on.chips)
        )
        kept = _kept(program, on)
        yield _read(kept) if kept.is_file() else _plan(program, on)


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
        words = out_of_memory_message(error)
        if words is None:
            raise
        clock.lap("compile")
        return replace(plan, costs=Costs(False, words, seconds=clock.seconds, versions=_versions()))
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


def _read(kept: Path) -> ProgramPlan:
    return from_plain(ProgramPlan, json.loads(kept.read_text()), str(kept))


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


def _kept(program: PlannedProgram, on: Topology) -> Path:
    """Where the plan of this very program is kept: of this config, these inputs, this source and these versions."""
    config, inputs = to_plain(program.experiment), _described(program.inputs)
    asked = [program.what.value, config, inputs, on.name, on.slices, _versions(), _source()]
    key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:32]
    return cache_folder() / "plans" / f"{key}.json"


@functools.cache
def _source() -> str:
    """What tells this package's source from any other."""
    text = hashlib.sha256()
    for file in sorted(Path(__file__).parent.parent.rglob("*.py")):
        text.update(file.read_bytes())
    return text.hexdigest()


def _versions() -> dict[str, str]:
    found = {}
    for name in ("jax", "jaxlib", "libtpu"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""
    return found
