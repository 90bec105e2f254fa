"""Text to image, on single frames: the U-Net without its temporal layers."""

from magicvideo_jax.data.tokenizer import Tokenize
from magicvideo_jax.experiment.config import Experiment
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.stages.prompt_stage import PromptStage, check_freeze, unet_objective
from magicvideo_jax.experiment.stages.stage import refuse_video_options
from magicvideo_jax.training.step import Objective


class TextToImage(PromptStage):
    """The image U-Net, and what else `model.trained` names, on captioned images."""

    name = "image"
    trains_single_images = True
    default_metrics = ("caption_accuracy", "held_out_loss")

    def check(self, experiment: Experiment) -> None:
        refuse_video_options(experiment)
        check_freeze(experiment)

    def objective(
        self, experiment: Experiment, networks: Networks, tokenize: Tokenize | None
    ) -> Objective:
        return unet_objective(experiment, networks, tokenize, as_images=True)
