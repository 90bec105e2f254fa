"""Prompts to clips with an experiment's networks: what `sample`, previews and scores share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from magicvideo_jax.core.compilation import jit
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.keys import key_for
from magicvideo_jax.core.progress import Progress
from magicvideo_jax.core.protocols import Params
from magicvideo_jax.data.tokenizer import CaptionTokenizer
from magicvideo_jax.experiment.config import Experiment, Stage
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.streams import frames_of
from magicvideo_jax.models.temporal import Position
from magicvideo_jax.parallel.batch import fetch
from magicvideo_jax.sampling.decode import decode_clips
from magicvideo_jax.sampling.keyframes import SampleConfig, keyframes, make_plan


@dataclass(frozen=True)
class Request:
    """What is to be made; one prompt and one frame rate a clip."""

    prompts: Sequence[str]
    fps: Sequence[float]
    negative: str = ""
    seed: int = 0


class Generator:
    """Compiled once for a batch size; `generate` fills it with as many prompts as there are, padding the last."""

    def __init__(
        self,
        experiment: Experiment,
        networks: Networks,
        tokenizer: CaptionTokenizer,
        *,
        at_once: int | None = None,
        sample: SampleConfig | None = None,
        frames: int | None = None,
    ):
        self.experiment, self.networks, self.tokenizer = experiment, networks, tokenizer
        self._at_once = experiment.evaluate.at_once if at_once is None else at_once
        sample = sample or experiment.sample
        frames = frames_of(experiment) if frames is None else frames
        _check_frames(experiment, frames)
        as_images = experiment.stage is Stage.IMAGE

        def run(params: Params, ids: jax.Array, null_ids: jax.Array, fps: jax.Array, keys: jax.Array) -> jax.Array:
            text = networks.read(params, ids)
            null = jnp.broadcast_to(networks.read(params, null_ids[None]), text.shape)
            z = keyframes(
                params,
                text,
                null,
                fps,
                keys,
                denoise=partial(networks.denoise, as_images=as_images),
                plan=make_plan(sample, experiment.model.noise),
                guidance=sample.guidance,
                shape=networks.latent_shape(frames, experiment.data.size),
            )
            return decode_clips(z, networks.decoder(params), experiment.decode)

        self._run: Callable[..., jax.Array] = jit(run)

    def generate(self, params: Params, request: Request, *, what: str = "sample") -> UInt8[np.ndarray, "b t h w 3"]:
        """A clip for each prompt. Clip i of a seed is the same whatever stands beside it."""
        null_ids = self.tokenizer([request.negative])[0]
        clips = []
        with Progress(len(request.prompts), what, unit="clip") as progress:
            for first in range(0, len(request.prompts), self._at_once):
                prompts = request.prompts[first : first + self._at_once]
                fps = np.asarray(request.fps[first : first + self._at_once], np.float32)
                missing = self._at_once - len(prompts)
                ids = np.pad(self.tokenizer(prompts), ((0, missing), (0, 0)), mode="edge")
                numbers = jnp.arange(first, first + self._at_once)
                keys = jax.vmap(lambda i: key_for(request.seed, i, "clip"))(numbers)
                made = self._run(params, ids, null_ids, np.pad(fps, (0, missing), mode="edge"), keys)
                clips.append(fetch(made)[: len(prompts)])
                progress.advance(len(prompts))
        return np.concatenate(clips)


def _check_frames(experiment: Experiment, frames: int) -> None:
    if frames < 1:
        raise UserError(f"--frames={frames}: give at least 1")
    temporal = experiment.model.unet.temporal
    has_rows = temporal is not None and (temporal.adaptors or temporal.position is Position.LEARNED)
    if temporal is not None and has_rows and frames > temporal.frames:
        raise UserError(
            f"--frames={frames}: this model's frame-wise adaptors were trained for {temporal.frames} frames; "
            f"ask for at most {temporal.frames}, or train with config.model.unet.temporal.frames={frames}"
        )
