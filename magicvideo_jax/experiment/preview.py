"""Looking at a run: rows of its outcome into WORKDIR/previews, as a clip and as one contact sheet."""

from pathlib import Path

import numpy as np

from magicvideo_jax.core.tree import merge
from magicvideo_jax.experiment.outcome import Evaluator
from magicvideo_jax.media.clip_files import save_video
from magicvideo_jax.media.contact_sheet import contact_sheet, save_sheet
from magicvideo_jax.training.state import TrainState


class Preview:
    """Called with a state and its step."""

    def __init__(self, outcome: Evaluator, folder: Path, *, fps: float):
        self._outcome, self._folder, self._fps = outcome, folder, fps

    def __call__(self, state: TrainState, step: int) -> None:
        captions, clips = zip(*self._outcome.preview(merge(state.ema, state.frozen)), strict=True)
        save_sheet(contact_sheet(clips, captions), self._folder / f"step_{step:06d}.png")
        if len(clips[0]) > 1:
            save_video(
                np.concatenate(clips, axis=2), self._folder / f"step_{step:06d}.mp4", fps=self._fps
            )
