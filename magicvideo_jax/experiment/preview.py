"""Looking at a run: fixed prompts sampled into WORKDIR/previews, as a clip and as one contact sheet."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from magicvideo_jax.core.protocols import Params
from magicvideo_jax.core.tree import merge
from magicvideo_jax.data.video import save_video
from magicvideo_jax.experiment.decoders import Decoders, side_by_side
from magicvideo_jax.experiment.generate import Generator, Request
from magicvideo_jax.experiment.held_out import unseen, unseen_batches, unseen_pictures
from magicvideo_jax.experiment.start import Started
from magicvideo_jax.parallel.batch import fetch
from magicvideo_jax.sampling.contact_sheet import contact_sheet, save_sheet
from magicvideo_jax.sampling.decode import decode_clips
from magicvideo_jax.training.objectives import unit
from magicvideo_jax.training.state import TrainState

PROMPTS = 8
CLIPS = 3
"""That decoders are compared by, in rows of their own."""


class Preview:
    """Called with a state and its step."""

    def __init__(self, started: Started, folder: Path, generator: Generator | None, decoders: Decoders | None):
        self._experiment, self._networks, self._folder, self._generator = (
            started.experiment,
            started.networks,
            folder,
            generator,
        )
        self._decoders = decoders
        asked = unseen(started.experiment, PROMPTS if decoders is None else CLIPS)
        self._prompts, self._fps = [one.prompt for one in asked], [one.fps for one in asked]

    def __call__(self, state: TrainState, step: int) -> None:
        params = merge(state.ema, state.frozen)
        if self._decoders is not None:
            rows = self._compared(params, self._decoders)
        elif self._generator is not None:
            rows = list(zip(self._prompts, self._sampled(params, self._generator), strict=True))
        else:
            rows = list(zip(self._prompts, self._reconstructed(params), strict=True))
        captions, clips = zip(*rows, strict=True)
        save_sheet(contact_sheet(clips, captions), self._folder / f"step_{step:06d}.png")
        if len(clips[0]) > 1:
            save_video(np.concatenate(clips, axis=2), self._folder / f"step_{step:06d}.mp4", fps=float(self._fps[0]))

    def _sampled(self, params: Params, generator: Generator) -> np.ndarray:
        request = Request(prompts=self._prompts, fps=self._fps)
        return generator.generate(params, request, what="preview")

    def _compared(self, params: Params, decoders: Decoders) -> list[tuple[str, np.ndarray]]:
        """Of a VideoVAE: clip by clip the source and what decoders make of it, each under its name."""
        clips = next(unseen_batches(self._experiment, None))["pixels"][:CLIPS]
        shown = side_by_side(decoders.by_name(params), decoders.latents(params, clips), clips)
        return [(f"{name}: {self._prompts[i]}", made[i]) for i in range(len(clips)) for name, made in shown]

    def _reconstructed(self, params: Params) -> np.ndarray:
        """Of a VAE: frames on the left, what it makes of them on the right."""
        pictures = unseen_pictures(self._experiment, len(self._prompts))
        mean, _ = self._networks.moments(params, unit(jnp.asarray(pictures)))
        made = decode_clips(mean, self._networks.decoder(params, is_scaled=False))
        return np.concatenate([pictures, fetch(made)], axis=1)
