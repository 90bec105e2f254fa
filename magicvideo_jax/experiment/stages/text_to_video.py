"""Text to video, on clips: the main job. With joint training, images are learned beside the clips."""

from dataclasses import replace

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.data.tokenizer import Tokenize
from magicvideo_jax.experiment.config import Component, Experiment
from magicvideo_jax.experiment.held_out import HeldOut
from magicvideo_jax.experiment.networks import PIPELINE, Networks
from magicvideo_jax.experiment.stages.prompt_evaluator import PromptEvaluator
from magicvideo_jax.experiment.stages.stage import Evaluator, Stage
from magicvideo_jax.training.objectives import denoising_objective, joint_objective
from magicvideo_jax.training.optimizer import Freeze
from magicvideo_jax.training.step import Objective


class TextToVideo(Stage):
    """The video U-Net, and what else `model.trained` names, on captioned clips."""

    name = "video"
    reads_captions = True
    default_metrics = ("caption_accuracy", "motion", "held_out_loss")

    def components(self, experiment: Experiment) -> tuple[Component, ...]:
        return PIPELINE

    def check(self, experiment: Experiment) -> None:
        check_freeze(experiment)
        temporal, frames = experiment.model.unet.temporal, experiment.data.frames
        if temporal is not None and frames > temporal.frames:
            raise UserError(
                f"config.data.frames={frames}: config.model.unet.temporal.frames={temporal.frames} "
                "is less; give the same"
            )

    def objective(
        self, experiment: Experiment, networks: Networks, tokenize: Tokenize | None
    ) -> Objective:
        clips = unet_objective(experiment, networks, tokenize)
        if not experiment.data.joint_images:
            return clips
        images = unet_objective(experiment, networks, tokenize, as_images=True)
        return joint_objective(clips, images, experiment.denoising)

    def evaluator(
        self,
        experiment: Experiment,
        networks: Networks,
        tokenize: Tokenize | None,
        held_out: HeldOut,
    ) -> Evaluator:
        assert tokenize is not None
        objective = unet_objective(held_out_denoising(experiment), networks, tokenize)
        return PromptEvaluator(
            experiment,
            networks,
            tokenize,
            held_out,
            objective=objective,
            default_metrics=self.default_metrics,
        )


def unet_objective(
    experiment: Experiment,
    networks: Networks,
    tokenize: Tokenize | None,
    *,
    as_images: bool = False,
) -> Objective:
    """Eq. 1 of `training/objectives.py` for an experiment's networks, noise and weights."""
    assert tokenize is not None
    return denoising_objective(
        networks.denoising_networks(),
        experiment.model.noise,
        experiment.denoising,
        null_ids=tokenize([""])[0],
        as_images=as_images,
    )


def held_out_denoising(experiment: Experiment) -> Experiment:
    """The experiment whose loss is comparable over runs: every caption is kept, times are uniform."""
    weights = replace(experiment.denoising, caption_dropout=0.0, time_shift=1.0)
    return replace(experiment, denoising=weights)


def check_freeze(experiment: Experiment) -> None:
    """Errors: `UserError` for an `optim.freeze` with which nothing of a U-Net would train."""
    freeze = experiment.optim.freeze
    if freeze is Freeze.DECODER:
        raise UserError(
            "config.optim.freeze=decoder: for stage=video_vae only; give all, temporal or adaptor"
        )
    if freeze is not Freeze.ALL and experiment.model.unet.temporal is None:
        raise UserError(
            f"config.optim.freeze={freeze.value}: the model has no temporal layers "
            "(config.model.unet.temporal), so nothing would train; give all"
        )
