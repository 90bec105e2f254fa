"""Prompts to clips with an experiment's networks: what `sample`, previews and scores share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh, PartitionSpec
from jaxtyping import UInt8

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.keys import key_for
from magicvideo_jax.core.types import Params
from magicvideo_jax.data.tokenizer import Tokenize
from magicvideo_jax.experiment.config import Experiment, TrainingStage
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.streams import frames_of
from magicvideo_jax.models.temporal import PositionEncoding
from magicvideo_jax.parallel.batch import fetch_to_host
from magicvideo_jax.parallel.mesh import sharded_over_all
from magicvideo_jax.runtime.compilation import jit, out_of_memory_in_one_line
from magicvideo_jax.runtime.progress import Progress
from magicvideo_jax.sampling.decoding import decode_clips
from magicvideo_jax.sampling.keyframes import SampleConfig, make_solver_table, sample_keyframes


@dataclass(frozen=True)
class SampleRequest:
    """What is to be made; one prompt and one frame rate a clip."""

    prompts: Sequence[str]
    fps: Sequence[float]
    negative: str = ""
    seed: int = 0


class Generator:
    """Compiled once for a number of clips, those of `clips_together`; `generate` fills it with as many prompts as there
    are, padding the last."""

    def __init__(
        self,
        experiment: Experiment,
        networks: Networks,
        tokenize: Tokenize,
        *,
        at_once: int | None = None,
        sample: SampleConfig | None = None,
        frames: int | None = None,
    ):
        self._tokenize = tokenize
        self._at_once = experiment.evaluate.batch_size if at_once is None else at_once
        sample = sample or experiment.sample
        frames = frames_of(experiment) if frames is None else frames
        _check_frames(experiment, frames)
        as_images = experiment.stage is TrainingStage.IMAGE

        def run(
            params: Params, ids: jax.Array, null_ids: jax.Array, fps: jax.Array, keys: jax.Array
        ) -> jax.Array:
            text = networks.encode_text(params, ids)
            null = jnp.broadcast_to(networks.encode_text(params, null_ids[None]), text.shape)
            z = sample_keyframes(
                params,
                text,
                null,
                fps,
                keys,
                denoise=partial(networks.denoise, as_images=as_images),
                table=make_solver_table(sample, experiment.model.noise),
                guidance=sample.guidance,
                shape=networks.latent_shape(frames, experiment.data.size),
            )
            return decode_clips(z, networks.decoder(params), experiment.decode)

        self._run = run
        self._programs: dict[Mesh | None, Any] = {}

    def clips_together(self, mesh: Mesh | AbstractMesh | None) -> int:
        """`at_once`, rounded up to what the devices of a mesh (none: one device) share evenly."""
        devices = 1 if mesh is None else mesh.size
        return devices * math.ceil(self._at_once / devices)

    def program(self, mesh: Mesh | None) -> Any:
        """`program(params, ids, null_ids, fps, keys)`, jitted: every device has whole parameters, gathered where they
        are spread, and makes clips of its own; they say nothing to one another until all are done."""
        if mesh not in self._programs:
            run = self._run
            platform = None if mesh is None else mesh.devices.flat[0].platform
            if mesh is not None and mesh.size > 1:
                clips, same = sharded_over_all(mesh).spec, PartitionSpec()
                run = jax.shard_map(
                    run,
                    mesh=mesh,
                    in_specs=(same, clips, same, clips, clips),
                    out_specs=clips,
                    check_vma=False,
                )
            self._programs[mesh] = jit(run, platform=platform)
        return self._programs[mesh]

    def inputs(self, request: SampleRequest, first: int, at_once: int) -> tuple[Any, ...]:
        """What a program takes beside the parameters, of a request's clips from the first on."""
        prompts = request.prompts[first : first + at_once]
        missing = at_once - len(prompts)
        ids = np.pad(self._tokenize(prompts), ((0, missing), (0, 0)), mode="edge")
        fps = np.pad(
            np.asarray(request.fps[first : first + at_once], np.float32), (0, missing), mode="edge"
        )
        keys = jax.vmap(lambda i: key_for(request.seed, i, "clip"))(
            jnp.arange(first, first + at_once)
        )
        return ids, self._tokenize([request.negative])[0], fps, keys

    def generate(
        self, params: Params, request: SampleRequest, *, what: str = "sample"
    ) -> UInt8[np.ndarray, "b t h w 3"]:
        """A clip for each prompt. But for rounding, clip i of a seed is the same whatever stands beside it."""
        mesh = getattr(
            getattr(jax.tree.leaves(params)[0], "sharding", None), "mesh", None
        )  # numpy has neither
        program, at_once, clips = self.program(mesh), self.clips_together(mesh), []
        with Progress(len(request.prompts), what, unit="clip") as progress:
            for first in range(0, len(request.prompts), at_once):
                with out_of_memory_in_one_line(
                    lambda words: (
                        f"{what}: out of memory while sampling {at_once} clips at once ({words}): "
                        "give fewer (evaluate.batch_size, --num; one a device at least), or decode in "
                        "smaller parts (decode.frames, decode.tile)"
                    )
                ):
                    made = program(params, *self.inputs(request, first, at_once))
                    clips.append(fetch_to_host(made, min(at_once, len(request.prompts) - first)))
                progress.advance(len(clips[-1]))
        return np.concatenate(clips)


def _check_frames(experiment: Experiment, frames: int) -> None:
    if frames < 1:
        raise UserError(f"--frames={frames}: give at least 1")
    temporal = experiment.model.unet.temporal
    has_rows = temporal is not None and (
        temporal.adaptors or temporal.position is PositionEncoding.LEARNED
    )
    if temporal is not None and has_rows and frames > temporal.frames:
        raise UserError(
            f"--frames={frames}: this model's frame-wise adaptors were trained for {temporal.frames} frames; "
            f"ask for at most {temporal.frames}, or train with config.model.unet.temporal.frames={frames}"
        )
