"""Looking at a run: fixed prompts sampled into WORKDIR/previews, as a clip and as one contact sheet."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from magicvideo_jax.core.protocols import Params
from magicvideo_jax.core.tree import merge
from magicvideo_jax.data.video import save_video
from magicvideo_jax.experiment.generate import Generator, Request
from magicvideo_jax.experiment.held_out import unseen, unseen_pictures
from magicvideo_jax.experiment.start import Started
from magicvideo_jax.parallel.batch import fetch
from magicvideo_jax.sampling.contact_sheet import contact_sheet, save_sheet
from magicvideo_jax.sampling.decode import decode_clips
from magicvideo_jax.training.objectives import unit
from magicvideo_jax.training.state import TrainState

PROMPTS = 8


class Preview:
    """Called with a state and its step."""

    def __init__(self, started: Started, folder: Path, generator: Generator | None):
        self._experiment, self._networks, self._folder, self._generator = (
            started.experiment,
            started.networks,
            folder,
            generator,
        )
        asked = unseen(started.experiment, PROMPTS)
        self._prompts, self._fps = [one.prompt for one in asked], [one.fps for one in asked]

    def __call__(self, state: TrainState, step: int) -> None:
        params = merge(state.ema, state.frozen)
        clips = self._reconstructed(params) if self._generator is None else self._sampled(params, self._generator)
        save_sheet(contact_sheet(list(clips), self._prompts), self._folder / f"step_{step:06d}.png")
        if clips.shape[1] > 1:
            side_by_side = np.concatenate(list(clips), axis=2)
            save_video(side_by_side, self._folder / f"step_{step:06d}.mp4", fps=float(self._fps[0]))

    def _sampled(self, params: Params, generator: Generator) -> np.ndarray:
        request = Request(prompts=self._prompts, fps=self._fps)
        return generator.generate(params, request, what="preview")

    def _reconstructed(self, params: Params) -> np.ndarray:
        """Of a VAE: frames on the left, what it makes of them on the right."""
        pictures = unseen_pictures(self._experiment, len(self._prompts))
        mean, _ = self._networks.moments(params, unit(jnp.asarray(pictures)))
        made = decode_clips(mean, self._networks.decoder(params, is_scaled=False))
        return np.concatenate([pictures, fetch(made)], axis=1)
