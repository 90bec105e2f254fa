"""What plans are of: the training step of a run, and the program that makes its clips; no device need be there."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.experiment.config import Experiment
from magicvideo_jax.experiment.generator import Generator, SampleRequest
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.shapes import abstract_run, arbitrary_ids, bytes_by_part
from magicvideo_jax.experiment.stages.registry import stage_of
from magicvideo_jax.parallel.mesh import replicated, sharded_over_all
from magicvideo_jax.parallel.shardings import bytes_per_device, with_sharding, with_shardings
from magicvideo_jax.training.step import Compiled


class ProgramKind(Enum):
    """Which program: the values of `--what`."""

    STEP = "step"
    SAMPLE = "sample"


@dataclass(frozen=True)
class PlannedProgram:
    """A program, and what a chip holds for it."""

    what: ProgramKind
    experiment: Experiment
    mesh: Mesh | AbstractMesh
    batch_size: int
    """Examples of a step, or clips that are made together."""
    inputs: dict[str, Any]
    """Of all of them: shapes in their places."""
    parts: dict[str, int]
    """Bytes a chip that are there at once, before anything is computed."""
    trace: Callable[[], Any]
    """As JAX has it: `.jaxpr`, and `.lower().compile()`; of a mesh with devices."""


def build_program(
    what: ProgramKind, experiment: Experiment, networks: Networks, mesh: Mesh | AbstractMesh
) -> PlannedProgram:
    """Of a fitted experiment. Errors: a batch that the mesh does not divide; clips of a stage that makes none."""
    return (_step if what is ProgramKind.STEP else _sample)(experiment, networks, mesh)


def _step(experiment: Experiment, networks: Networks, mesh: Mesh | AbstractMesh) -> PlannedProgram:
    run = abstract_run(experiment, networks, mesh)

    def trace() -> Any:
        return Compiled(run.step, run.state).traced(run.state, run.batch)

    return PlannedProgram(
        ProgramKind.STEP,
        experiment,
        mesh,
        experiment.train.batch_size,
        run.batch,
        bytes_by_part(run),
        trace,
    )


def _sample(
    experiment: Experiment, networks: Networks, mesh: Mesh | AbstractMesh
) -> PlannedProgram:
    """The sampling program used for previews: parameters sharded as in training (`sample` and `evaluate` replicate
    them).

    What is gathered is counted in the networks' compute type. That is an estimate: XLA leaves out the VAE's encoder,
    and may gather the word table in float32.
    """
    stage = stage_of(experiment)
    if not stage.reads_captions:
        raise UserError(
            f"--what=sample: stage={experiment.stage} does not sample from prompts; plan its step"
        )
    generator = Generator(
        experiment,
        networks,
        arbitrary_ids(experiment.model.text.tokens),
        frames=stage.frames(experiment),
        as_images=stage.trains_single_images,
    )
    params = with_shardings(networks.shapes(stage.components(experiment)), mesh)
    clips = generator.clips_at_once(mesh)
    request = SampleRequest(prompts=[""] * clips, fps=[experiment.sample.fps] * clips)

    ids, null_ids, fps, keys = generator.batch(request, 0, clips)
    inputs = {
        "ids": with_sharding(ids, sharded_over_all(mesh)),
        "fps": with_sharding(fps, sharded_over_all(mesh)),
        "keys": with_sharding(keys, sharded_over_all(mesh)),
    }
    null_ids = with_sharding(null_ids, replicated(mesh))

    def trace() -> Any:
        assert isinstance(mesh, Mesh)
        settings = generator.settings()
        arguments = (inputs["ids"], null_ids, inputs["fps"], inputs["keys"])
        return generator.program(mesh).trace(params, *arguments, *settings)

    sharded = [leaf for leaf in jax.tree.leaves(params) if not leaf.sharding.is_fully_replicated]
    parts = {
        "parameters": bytes_per_device(params),
        "gathered": sum(leaf.size for leaf in sharded) * jnp.dtype(networks.dtype).itemsize,
        "inputs": bytes_per_device(inputs),
    }
    return PlannedProgram(ProgramKind.SAMPLE, experiment, mesh, clips, inputs, parts, trace)
