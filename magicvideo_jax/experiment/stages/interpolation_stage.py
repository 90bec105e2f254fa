"""Frame interpolation: a text-to-video network that is told the first and the last frame of a short clip."""

import numpy as np

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.types import KnownFrames
from magicvideo_jax.experiment.config import Experiment
from magicvideo_jax.experiment.stages.stage import refuse_image_prompts
from magicvideo_jax.experiment.stages.text_to_video import TextToVideo
from magicvideo_jax.sampling.interpolation import FRAMES_PER_KEYFRAME


class FrameInterpolationStage(TextToVideo):
    """Text to video on clips of five frames, of which a keyframe model makes the first and the last."""

    name = "interpolation"
    default_metrics = ("inserted_frames",)

    def known_frames(self, experiment: Experiment) -> tuple[bool, ...]:
        last = experiment.data.frames - 1
        return tuple(i in (0, last) for i in range(last + 1))

    def sample_clips(self, experiment: Experiment, number: int) -> KnownFrames:
        known, side = self.known_frames(experiment), experiment.data.size
        pixels = np.zeros((number, len(known), side, side, 3), np.uint8)
        return KnownFrames(pixels, np.tile(np.array(known), (number, 1)))

    def check(self, experiment: Experiment) -> None:
        super().check(experiment)
        refuse_image_prompts(experiment)
        frames = FRAMES_PER_KEYFRAME + 1
        if experiment.data.frames != frames:
            raise UserError(
                f"config.data.frames={experiment.data.frames}: give {frames}, two keyframes and three frames between"
            )
        if experiment.denoising.known_frames.first_and_last != 1:
            raise UserError(
                "config.denoising.known_frames.first_and_last="
                f"{experiment.denoising.known_frames.first_and_last:g}: give 1, which is interpolation"
            )
