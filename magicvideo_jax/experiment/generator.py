"""Prompts to clips with an experiment's networks: what `sample`, previews and metrics share."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, Key, UInt8

from magicvideo_jax.core.checks import named, refused
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.keys import key_for
from magicvideo_jax.core.types import Condition, Denoise, Params
from magicvideo_jax.data.tokenizer import Tokenize
from magicvideo_jax.experiment.config import Experiment
from magicvideo_jax.experiment.networks import Networks, SampleStart
from magicvideo_jax.parallel.batch import fetch_to_host
from magicvideo_jax.parallel.constraints import BATCH_AXES, on_own_clips, sharding_activations
from magicvideo_jax.parallel.mesh import batch_shards, sharded_over_all
from magicvideo_jax.runtime.compilation import jit, out_of_memory_in_one_line
from magicvideo_jax.runtime.progress import Progress
from magicvideo_jax.sampling.clip_split import (
    SplitConfig,
    SplitKind,
    devices_per_clip,
    one_pass_at_a_time,
    split_on,
)
from magicvideo_jax.sampling.decoding import decode_clips
from magicvideo_jax.sampling.keyframes import (
    SampleConfig,
    SamplerInputs,
    make_sampler_inputs,
    sample_keyframes,
)
from magicvideo_jax.sampling.latent_parallel import check_split, latent_parallel
from magicvideo_jax.sampling.step_watch import SamplingCancelled, StepWatch
from magicvideo_jax.sampling.windows import ContextConfig


@dataclass(frozen=True)
class SampleRequest:
    """What to sample; one prompt and one frame rate for each clip."""

    prompts: Sequence[str]
    fps: Sequence[float]
    negative: str = ""
    seed: int = 0
    clips: Any = None
    """Clips that the new ones are made of, as the `starts` of a `Generator` reads them."""
    purpose: str = "clip"
    """Name of the noise: another one gives other noise for the same seed."""
    first_clip: int = 0
    """Number of the first clip in the noise, for a part of a longer request."""


Starts = Callable[[Params, Any, Key[Any, "b"]], SampleStart]
"""`starts(params, clips, keys)`, of the clips of a request."""


class Generator:
    """Samples clips of `frames` frames, `batch_size` at once (rounded up to a multiple of the devices).

    Sampler and guidance are arguments of the compiled program: another sampler, scale, prompt or frame rate compiles
    nothing. Another number of steps does; so does guidance after a first request without it (scale 1), whose program
    has one pass through the network per step instead of two. Context windows, FreeInit and clips that devices share
    have programs of their own.
    """

    def __init__(
        self,
        experiment: Experiment,
        networks: Networks,
        tokenize: Tokenize,
        *,
        frames: int,
        size: tuple[int, ...] = (),
        as_images: bool = False,
        batch_size: int | None = None,
        starts: Starts | None = None,
        watch: StepWatch | None = None,
    ):
        """`size` is height and width of the clips in pixels; empty: those of the experiment. `as_images` leaves out
        all temporal layers. `starts` is asked where sampling starts for a request that has clips.
        A `watch` puts calls of the host into the program, which JAX's cache of compiled programs then does not keep.
        """
        if frames < 1:
            raise UserError(f"--frames={frames}: give at least 1")
        self._experiment, self._frames = experiment, frames
        self._tokenize = tokenize
        self._batch_size = experiment.evaluate.batch_size if batch_size is None else batch_size
        self._networks, self._as_images, self._starts = networks, as_images, starts
        self.latent_shape = self._latent_shape(size or (experiment.data.size,) * 2)
        self._watch = watch
        self._programs: dict[tuple[Mesh | None, bool, SplitKind], Any] = {}
        self._guided: set[Any] = set()
        """Meshes and structures of samplers for which the program with guidance is compiled."""

    def _latent_shape(self, size: tuple[int, ...]) -> tuple[int, int, int, int]:
        """(t h w c) of the latents of a clip of so many pixels. Errors: `UserError` for another size."""
        check_sides(size, self._experiment.model.vae.factor, "the VAE's factor")
        return self._networks.latent_shape(self._frames, *size)

    def _run(
        self,
        decodes: bool,
        mesh: Mesh | None,
        params: Params,
        ids: jax.Array,
        null_ids: jax.Array,
        fps: jax.Array,
        keys: jax.Array,
        clips: Any,
        sampler: SamplerInputs,
    ) -> jax.Array:
        """Clips of a batch, or their latents."""
        networks, unet = self._networks, self._experiment.model.unet
        text = networks.encode_text(params, ids)
        null = jnp.broadcast_to(networks.encode_text(params, null_ids[None]), text.shape)
        start = SampleStart()
        if self._starts is not None and clips is not None:
            start = self._starts(params, clips, keys)
        if start.text is not None:
            text = jnp.broadcast_to(start.text[:, None], text.shape)

        shares_frames = split_on(sampler.split, mesh).by is SplitKind.FRAMES

        def in_parts(network: Denoise, times: Float[Any, "s"]) -> Denoise:
            if shares_frames:
                return one_pass_at_a_time(network, len(keys))
            return latent_parallel(
                network,
                mesh,
                sampler.split,
                times=times,
                stride=unet.stride,
                is_directed=unet.temporal is not None and unet.temporal.is_directed,
            )

        z = sample_keyframes(
            params,
            Condition(text, fps, start.given, start.noise_level),
            null,
            keys,
            z0=start.z0,
            denoise=partial(networks.denoise, as_images=self._as_images),
            reusing=partial(networks.denoise_reusing, as_images=self._as_images),
            sampler=sampler,
            shape=self.latent_shape,
            embeds_guidance=unet.embeds_guidance,
            in_parts=in_parts,
            goes_on=None if self._watch is None else self._watch.goes_on,
        )
        z = start.completed(z)
        if not decodes:
            return z

        def decode(params: Params, z: jax.Array) -> jax.Array:
            return decode_clips(z, networks.decoder(params), self._experiment.decode)

        # Devices that share a clip each decode it.
        return on_own_clips(decode, params, z) if shares_frames else decode(params, z)

    def clips_at_once(
        self, mesh: Mesh | AbstractMesh | None, by: SplitKind = SplitKind.NONE
    ) -> int:
        """The batch size, rounded up to what the devices of a mesh (None: one device), or those groups of them that
        share a clip, take evenly. Devices that share frames take one clip at a time."""
        if mesh is None:
            return self._batch_size
        groups = mesh.size if by is SplitKind.NONE else batch_shards(mesh)
        return groups if by is SplitKind.FRAMES else groups * math.ceil(self._batch_size / groups)

    def program(
        self, mesh: Mesh | None, *, decodes: bool = True, by: SplitKind = SplitKind.NONE
    ) -> Any:
        """`program(params, ids, null_ids, fps, keys, clips, sampler)`, jitted, of clips or of their latents.

        Every device gathers the parameters. It samples clips of its own, and exchanges nothing until all are done, or
        shares them (`by`) with the others along `frames`.
        """
        if (mesh, decodes, by) not in self._programs:
            run = partial(self._run, decodes, mesh)
            platform = None if mesh is None else mesh.devices.flat[0].platform
            if mesh is not None and by is SplitKind.FRAMES:
                run = sharding_activations(run, mesh)
            elif mesh is not None and mesh.size > 1:
                clips, same = self.clips_sharding(mesh, by).spec, PartitionSpec()
                run = jax.shard_map(
                    run,
                    mesh=mesh,
                    in_specs=(same, clips, same, clips, clips, clips, same),
                    out_specs=clips,
                    check_vma=False,
                )
            self._programs[mesh, decodes, by] = jit(run, platform=platform)
        return self._programs[mesh, decodes, by]

    @staticmethod
    def clips_sharding(mesh: Mesh | AbstractMesh, by: SplitKind) -> NamedSharding:
        """Sharding of a program's clips: over all devices, or over groups of those that share one."""
        if by is SplitKind.NONE:
            return sharded_over_all(mesh)
        return NamedSharding(mesh, PartitionSpec(BATCH_AXES))

    def split(
        self, sample: SampleConfig | None = None, mesh: Mesh | AbstractMesh | None = None
    ) -> SplitKind:
        """What the devices of a mesh share of a clip with these settings (None: the experiment's).

        Errors: `UserError` for a split that does not fit the mesh, the clips or the network.
        """
        split = (sample or self._experiment.sample).split
        with named("config.sample.split."):
            self.check_split(split, mesh)
        return split_on(split, mesh).by if devices_per_clip(mesh) > 1 else SplitKind.NONE

    def check_split(self, config: SplitConfig, mesh: Mesh | AbstractMesh | None) -> None:
        """Check a split of these clips. Errors: `FieldError`."""
        unet = self._experiment.model.unet
        check_split(config, self.latent_shape, mesh, stride=unet.stride)
        kind = split_on(config, mesh).by
        attends_to_first = unet.temporal is not None and unet.temporal.first_and_previous
        if kind is SplitKind.LATENTS and "t" in config.axes and attends_to_first:
            advice = "give hw: frames of this network attend to the first one of their clip"
            raise refused(config, "axes", advice)
        is_shared = kind is not SplitKind.NONE and devices_per_clip(mesh) > 1
        if is_shared and self._watch is not None:
            advice = "give none: devices that share a clip cannot be stopped between steps"
            raise refused(config, "by", advice)

    def batch(self, request: SampleRequest, first: int, size: int) -> tuple[Any, ...]:
        """Ids, null ids, frame rates, keys and clips of `size` clips of a request, padded with its last clip."""
        prompts = request.prompts[first : first + size]

        def padded(rows: np.ndarray) -> np.ndarray:
            widths = ((0, size - len(prompts)), *((0, 0),) * (rows.ndim - 1))
            return np.pad(rows, widths, mode="edge")

        ids = padded(self._tokenize(prompts))
        fps = padded(np.asarray(request.fps[first : first + size], np.float32))
        number = request.first_clip + jnp.arange(first, first + size)
        keys = jax.vmap(lambda i: key_for(request.seed, i, request.purpose))(number)
        clips = jax.tree.map(lambda rows: padded(rows[first : first + size]), request.clips)
        return ids, self._tokenize([request.negative])[0], fps, keys, clips

    def settings(
        self, sample: SampleConfig | None = None, mesh: Mesh | AbstractMesh | None = None
    ) -> SamplerInputs:
        """The last argument of a program, for these settings (None: the experiment's).

        Errors: `UserError` for more frames than the model has.
        """
        sample = sample or self._experiment.sample
        _check_frames(self._experiment, self._frames, sample.context.for_clip(self._frames))
        inputs = make_sampler_inputs(sample, self._experiment.model.noise, shape=self.latent_shape)
        embeds_guidance = self._experiment.model.unet.embeds_guidance
        if (
            sample.guidance == 1
            and not embeds_guidance
            and _compiled_by(mesh, inputs) not in self._guided
        ):
            return inputs._replace(guidance=None)
        return inputs

    def generate(
        self,
        params: Params,
        request: SampleRequest,
        sample: SampleConfig | None = None,
        *,
        label: str = "sample",
    ) -> UInt8[np.ndarray, "b t h w 3"]:
        """A clip for each prompt. Up to rounding, clip i of a seed does not depend on the other clips of its batch.

        Errors: `UserError` naming `label` where devices have too little memory; `SamplingCancelled`.
        """
        return self._sampled(params, request, sample, label, decodes=True)

    def latents(
        self,
        params: Params,
        request: SampleRequest,
        sample: SampleConfig | None = None,
        *,
        label: str = "sample",
    ) -> Float[np.ndarray, "b t h w c"]:
        """The latents of those clips. Errors: the same."""
        return self._sampled(params, request, sample, label, decodes=False)

    def _sampled(
        self,
        params: Params,
        request: SampleRequest,
        sample: SampleConfig | None,
        label: str,
        *,
        decodes: bool,
    ) -> np.ndarray:
        mesh = mesh_of_params(params)
        by = self.split(sample, mesh)
        program, size = self.program(mesh, decodes=decodes, by=by), self.clips_at_once(mesh, by)
        sampler = self.settings(sample, mesh)
        if sampler.guidance is not None:
            self._guided.add(_compiled_by(mesh, sampler))
        if self._watch is not None:
            batches = math.ceil(len(request.prompts) / size)
            devices = 1 if mesh is None else mesh.size
            self._watch.begin(batches * _network_steps(sampler), devices=devices)
        clips: list[np.ndarray] = []
        with (
            Progress(len(request.prompts), label, unit="clip") as progress,
            out_of_memory_in_one_line(
                lambda words: (
                    f"{label}: out of memory while sampling {size} clips at once ({words}): give "
                    "fewer (evaluate.batch_size, --num; at least one a device), or decode in "
                    "smaller parts (decode.frames, decode.tile)"
                )
            ),
        ):
            for first in range(0, len(request.prompts), size):
                sampled = program(params, *self.batch(request, first, size), sampler)
                clips.append(fetch_to_host(sampled, min(size, len(request.prompts) - first)))
                if self._watch is not None and self._watch.is_cancelled:
                    raise SamplingCancelled
                progress.advance(len(clips[-1]))
        return np.concatenate(clips)


def mesh_of_params(params: Params) -> Mesh | None:
    """The mesh that parameters lie on; None for numpy arrays and those of one device."""
    sharding = getattr(jax.tree.leaves(params)[0], "sharding", None)
    return getattr(sharding, "mesh", None)


def _network_steps(sampler: SamplerInputs) -> int:
    """Denoising steps of one clip."""
    iterations = 1 if sampler.free_init is None else int(sampler.free_init.iterations)
    return iterations * len(sampler.table.steps.time)


def _compiled_by(mesh: Mesh | AbstractMesh | None, sampler: SamplerInputs) -> Any:
    """Mesh, structure and shapes of a sampler, which decide on its program."""
    leaves, structure = jax.tree.flatten(sampler)
    return mesh, structure, tuple(np.shape(leaf) for leaf in leaves)


def check_sides(size: tuple[int, ...], factor: int, reason: str) -> None:
    """Check height and width in pixels. Errors: `UserError` with a reason where the factor does not divide them."""
    if any(side % factor for side in size):
        given = "x".join(map(str, size))
        raise UserError(f"--size={given}: give multiples of {factor}, {reason}")


def _check_frames(experiment: Experiment, frames: int, context: ContextConfig) -> None:
    """`context` is that of a clip of so many frames: none where it fits a window."""
    temporal, window = experiment.model.unet.temporal, context.attention_window
    most = None if temporal is None else temporal.max_frames
    name, at_once = "frames", frames
    if context.frames is not None:
        name, at_once = "context_frames", context.frames
    if most is not None and at_once > most:
        has_positions = temporal is not None and temporal.motion is not None
        train = f", or train with config.model.unet.temporal.frames={at_once}"
        raise UserError(
            f"--{name}={at_once}: this model's temporal layers know {most} frames; ask for at most "
            f"{most}, or for windows of {most} (--context_frames={most})"
            f"{'' if has_positions else train}"
        )
    if window is not None and not (
        temporal is not None
        and temporal.motion is not None
        and temporal.in_attention_windows(window).max_frames is None
    ):
        raise UserError(
            "--context_fuse=attention: this is for models whose only temporal layers are AnimateDiff's "
            "motion modules; give --context_fuse=output"
        )
