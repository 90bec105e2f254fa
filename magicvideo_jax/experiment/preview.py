"""Looking at a run: fixed prompts sampled into WORKDIR/previews, as a clip and as one contact sheet."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from magicvideo_jax.core.protocols import Params
from magicvideo_jax.core.tree import merge
from magicvideo_jax.data.shapes import image_of
from magicvideo_jax.data.video import save_video
from magicvideo_jax.experiment.drawn import frames_of, prompt_of, unseen_scenes
from magicvideo_jax.experiment.generate import Generator, Request
from magicvideo_jax.experiment.start import Started
from magicvideo_jax.sampling.contact_sheet import contact_sheet, save_sheet
from magicvideo_jax.sampling.decode import decode_clips
from magicvideo_jax.training.objectives import unit
from magicvideo_jax.training.state import TrainState

PROMPTS = 8


class Preview:
    """Called with a state and its step."""

    def __init__(self, started: Started, folder: Path, generator: Generator | None):
        experiment = started.experiment
        self._stage, self._networks, self._folder, self._generator = (
            experiment.stage,
            started.networks,
            folder,
            generator,
        )
        self._scenes = unseen_scenes(experiment.stage, PROMPTS)
        self._prompts = [prompt_of(scene, experiment.stage) for scene in self._scenes]
        self._size, self._frames = experiment.data.size, frames_of(experiment.stage, experiment.data)

    def __call__(self, state: TrainState, step: int) -> None:
        params = merge(state.ema, state.frozen)
        clips = self._reconstructed(params) if self._generator is None else self._sampled(params, self._generator)
        save_sheet(contact_sheet(list(clips), self._prompts), self._folder / f"step_{step:06d}.png")
        if clips.shape[1] > 1:
            side_by_side = np.concatenate(list(clips), axis=2)
            save_video(side_by_side, self._folder / f"step_{step:06d}.mp4", fps=float(self._scenes[0].fps))

    def _sampled(self, params: Params, generator: Generator) -> np.ndarray:
        request = Request(prompts=self._prompts, fps=[scene.fps for scene in self._scenes])
        return generator.generate(params, request, what="preview")

    def _reconstructed(self, params: Params) -> np.ndarray:
        """Of a VAE: drawn frames above, what it makes of them below."""
        drawn = np.stack([image_of(scene, size=self._size).pixels for scene in self._scenes])
        mean, _ = self._networks.moments(params, unit(jnp.asarray(drawn)))
        made = decode_clips(mean, lambda z: self._networks.decode_unscaled(params, z))
        return np.concatenate([drawn, np.asarray(made)], axis=1)
