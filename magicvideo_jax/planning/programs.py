"""Programs that can be planned: the training step of a run and its sampling program.

They need no devices.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh

from magicvideo_jax.core.class_names import ClassNames
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.experiment.config import Component, Experiment
from magicvideo_jax.experiment.generator import SampleRequest
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.shapes import abstract_run, arbitrary_ids, bytes_by_part
from magicvideo_jax.experiment.stages.registry import stage_of
from magicvideo_jax.parallel.mesh import replicated
from magicvideo_jax.parallel.shardings import bytes_per_device, with_sharding, with_shardings
from magicvideo_jax.planning.split_traffic import SplitExchange, step_exchanges
from magicvideo_jax.sampling.clip_split import devices_per_clip
from magicvideo_jax.training.step import CompiledStep


class ProgramKind(Enum):
    """Kind of program: the values of `--what`."""

    STEP = "step"
    SAMPLE = "sample"


@dataclass(frozen=True)
class PlannedProgram:
    """A program that is not compiled yet, and the memory that its inputs need."""

    what: ProgramKind
    experiment: Experiment
    mesh: Mesh | AbstractMesh
    batch_size: int
    """Examples per step, or clips sampled together."""
    inputs: dict[str, Any]
    """Shapes of the whole batch, with shardings."""
    parts: dict[str, int]
    """Bytes per chip that are live at once before activations, by part."""
    trace: Callable[[], Any]
    """Traces the program: gives `.jaxpr` and `.lower().compile()`. Needs a mesh with devices."""
    exchanges: dict[str, SplitExchange] = field(default_factory=dict)
    """What devices that share a clip send per step, by the kind of their split."""


def build_program(
    what: ProgramKind, experiment: Experiment, networks: Networks, mesh: Mesh | AbstractMesh
) -> PlannedProgram:
    """Program of an experiment whose configuration is final.

    Errors: `UserError` where the mesh does not divide the batch, or the stage does not sample from
    prompts.
    """
    return (_step if what is ProgramKind.STEP else _sample)(experiment, networks, mesh)


def _step(experiment: Experiment, networks: Networks, mesh: Mesh | AbstractMesh) -> PlannedProgram:
    run = abstract_run(experiment, networks, mesh)

    def trace() -> Any:
        return CompiledStep(run.step, run.state).trace(run.state, run.batch)

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
    """Program that samples previews, with parameters sharded as in training.

    `sample` and `evaluate` replicate parameters. Gathered parameters are counted in the compute
    type. This is an estimate: XLA drops the VAE's encoder, and may gather the token embedding in
    float32.
    """
    stage = stage_of(experiment)
    tokenize = stage.class_names(experiment) or arbitrary_ids(experiment.model.text.tokens)
    if not stage.reads_captions and not isinstance(tokenize, ClassNames):
        raise UserError(
            f"--what=sample: stage={experiment.stage} does not sample from prompts; use --what=step"
        )
    generator = stage.clip_generator(
        experiment,
        networks,
        tokenize,
        frames=stage.held_out_frames(experiment),
        size=experiment.sample.size,
    )
    shapes = networks.shapes(stage.components(experiment))
    params = with_shardings(shapes, mesh, min_size=experiment.mesh.fsdp_min_size)
    by = generator.split(mesh=mesh)
    clips, over = generator.clips_at_once(mesh, by), generator.clips_sharding(mesh, by)
    request = SampleRequest(
        prompts=[""] * clips,
        fps=[experiment.sample.fps] * clips,
        clips=stage.sample_clips(experiment, clips),
    )

    ids, null_ids, fps, keys, start = generator.batch(request, 0, clips)
    inputs = {
        "ids": with_sharding(ids, over),
        "fps": with_sharding(fps, over),
        "keys": with_sharding(keys, over),
    }
    start = jax.tree.map(lambda x: with_sharding(x, over), start)
    if start is not None:
        inputs |= start._asdict()
    null_ids = with_sharding(null_ids, replicated(mesh))

    def trace() -> Any:
        assert isinstance(mesh, Mesh)
        arguments = (inputs["ids"], null_ids, inputs["fps"], inputs["keys"], start)
        return generator.program(mesh, by=by).trace(
            params, *arguments, generator.settings(mesh=mesh)
        )

    sharded = [leaf for leaf in jax.tree.leaves(params) if not leaf.sharding.is_fully_replicated]
    parts = {
        "parameters": bytes_per_device(params),
        "gathered": sum(leaf.size for leaf in sharded) * jnp.dtype(networks.dtype).itemsize,
        "inputs": bytes_per_device(inputs),
    }
    exchanges = {}
    if Component.UNET.value in shapes:
        exchanges = step_exchanges(
            experiment.sample,
            experiment.model.unet,
            shapes[Component.UNET.value],
            generator.latent_shape,
            devices=devices_per_clip(mesh),
            itemsize=jnp.dtype(networks.dtype).itemsize,
        )
    return PlannedProgram(
        ProgramKind.SAMPLE, experiment, mesh, clips, inputs, parts, trace, exchanges
    )
