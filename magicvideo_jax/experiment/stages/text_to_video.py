"""Text to video, on clips: the main job. With joint training, images are learned beside the clips."""

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.data.tokenizer import Tokenize
from magicvideo_jax.experiment.config import Experiment
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.stages.prompt_stage import PromptStage, check_freeze, unet_objective
from magicvideo_jax.training.objectives import joint_objective
from magicvideo_jax.training.step import Objective


class TextToVideo(PromptStage):
    """The video U-Net, and what else `model.trained` names, on captioned clips."""

    name = "video"
    default_metrics = ("caption_accuracy", "motion", "held_out_loss")

    def check(self, experiment: Experiment) -> None:
        check_freeze(experiment)
        temporal, frames = experiment.model.unet.temporal, experiment.data.frames
        most = None if temporal is None else temporal.max_frames
        if most is not None and frames > most:
            limit = f"config.model.unet.temporal.frames={most} is less; give the same"
            if temporal is not None and temporal.motion is not None:
                limit = f"the motion modules have {most} positions: give at most {most}"
            raise UserError(f"config.data.frames={frames}: {limit}")
        reads_known_frames = temporal is not None and temporal.known_frames
        if experiment.denoising.known_frames.total and not reads_known_frames:
            raise UserError(
                "config.denoising.known_frames: the network is told of none: set "
                "config.model.unet.temporal.known_frames=True"
            )
        if experiment.data.late_fraction and not reads_known_frames:
            raise UserError(
                f"config.data.late_fraction={experiment.data.late_fraction:g}: only a network that is told of frames "
                "can tell late clips: set config.model.unet.temporal.known_frames=True, or give 0"
            )

    def objective(
        self, experiment: Experiment, networks: Networks, tokenize: Tokenize | None
    ) -> Objective:
        clips = unet_objective(experiment, networks, tokenize)
        if not experiment.data.joint_images:
            return clips
        images = unet_objective(experiment, networks, tokenize, as_images=True)
        return joint_objective(clips, images, experiment.denoising)
