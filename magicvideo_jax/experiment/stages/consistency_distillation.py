"""Distillation of a video model into a student that samples in a few steps, guidance included."""

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.data.tokenizer import Tokenize
from magicvideo_jax.experiment.config import Component, Experiment
from magicvideo_jax.experiment.networks import PIPELINE, Networks
from magicvideo_jax.experiment.stages.prompt_stage import PromptStage
from magicvideo_jax.experiment.stages.stage import refuse_image_prompts
from magicvideo_jax.training.consistency import consistency_objective
from magicvideo_jax.training.optimizer import Freeze
from magicvideo_jax.training.step import Objective


class ConsistencyDistillation(PromptStage):
    """A student that begins as its teacher, the U-Net of `init_from`."""

    name = "consistency"
    default_metrics = ("caption_accuracy", "motion")

    def components(self, experiment: Experiment) -> tuple[Component, ...]:
        return (*PIPELINE, Component.TEACHER)

    def check(self, experiment: Experiment) -> None:
        refuse_image_prompts(experiment)
        model = experiment.model
        if not model.unet.embeds_guidance:
            raise UserError(
                "config.model.unet.guidance_channels=0: a student is told the scale of guidance; give 256"
            )
        if model.trained != (Component.UNET,) or experiment.optim.freeze is not Freeze.ALL:
            raise UserError(
                "config.model.trained, config.optim.freeze: a student is a U-Net that trains as a "
                "whole; give ('unet',) and all"
            )

    def objective(
        self, experiment: Experiment, networks: Networks, tokenize: Tokenize | None
    ) -> Objective:
        assert tokenize is not None
        return consistency_objective(
            networks.denoising_networks(),
            networks.teach,
            experiment.model.noise,
            experiment.consistency,
            null_ids=tokenize([""])[0],
        )
