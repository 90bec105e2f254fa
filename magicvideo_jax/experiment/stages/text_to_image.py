"""Text to image, on single frames: the U-Net without its temporal layers."""

from magicvideo_jax.data.tokenizer import Tokenize
from magicvideo_jax.experiment.config import Component, Experiment
from magicvideo_jax.experiment.held_out import HeldOut
from magicvideo_jax.experiment.networks import PIPELINE, Networks
from magicvideo_jax.experiment.stages.prompt_evaluator import PromptEvaluator
from magicvideo_jax.experiment.stages.stage import Evaluator, Stage, refuse_video_options
from magicvideo_jax.experiment.stages.text_to_video import (
    check_freeze,
    held_out_denoising,
    unet_objective,
)
from magicvideo_jax.training.step import Objective


class TextToImage(Stage):
    """The image U-Net, and what else `model.trained` names, on captioned images."""

    name = "image"
    reads_captions = True
    trains_single_images = True
    default_metrics = ("caption_accuracy", "held_out_loss")

    def components(self, experiment: Experiment) -> tuple[Component, ...]:
        return PIPELINE

    def check(self, experiment: Experiment) -> None:
        refuse_video_options(experiment)
        check_freeze(experiment)

    def objective(
        self, experiment: Experiment, networks: Networks, tokenize: Tokenize | None
    ) -> Objective:
        return unet_objective(experiment, networks, tokenize, as_images=True)

    def evaluator(
        self,
        experiment: Experiment,
        networks: Networks,
        tokenize: Tokenize | None,
        held_out: HeldOut,
    ) -> Evaluator:
        assert tokenize is not None
        return PromptEvaluator(
            experiment,
            networks,
            tokenize,
            held_out,
            objective=self.objective(held_out_denoising(experiment), networks, tokenize),
            as_images=True,
            default_metrics=self.default_metrics,
        )
