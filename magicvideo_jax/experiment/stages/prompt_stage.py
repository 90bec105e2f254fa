"""What stages share that learn from captions and sample from prompts: their networks, loss and evaluation."""

from dataclasses import replace

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.data.tokenizer import Tokenize
from magicvideo_jax.experiment.config import Component, Experiment
from magicvideo_jax.experiment.held_out import HeldOut
from magicvideo_jax.experiment.networks import PIPELINE, Networks
from magicvideo_jax.experiment.stages.prompt_evaluator import PromptEvaluator
from magicvideo_jax.experiment.stages.stage import Evaluator, Stage
from magicvideo_jax.training.known_frame_patterns import KnownFramesConfig
from magicvideo_jax.training.objectives import denoising_objective
from magicvideo_jax.training.optimizer import Freeze, trains_layers
from magicvideo_jax.training.step import Objective


class PromptStage(Stage):
    """Base class of these stages; a subclass has a name, its checks and its objective."""

    reads_captions = True

    def components(self, experiment: Experiment) -> tuple[Component, ...]:
        return (*PIPELINE, Component.IMAGE) if experiment.needs_image_encoder else PIPELINE

    def evaluator(
        self,
        experiment: Experiment,
        networks: Networks,
        tokenize: Tokenize | None,
        held_out: HeldOut,
    ) -> Evaluator:
        assert tokenize is not None
        as_images = self.trains_single_images
        loss = unet_objective(
            held_out_denoising(experiment), networks, tokenize, as_images=as_images
        )
        return PromptEvaluator(
            experiment,
            networks,
            tokenize,
            held_out,
            objective=loss,
            metrics=self.metrics_of(experiment),
            known=self.known_frames(experiment),
            as_images=as_images,
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
    """The experiment whose loss is comparable over runs: every caption is kept, no frame known, times uniform."""
    weights = replace(
        experiment.denoising, caption_dropout=0.0, time_shift=1.0, known_frames=KnownFramesConfig()
    )
    return replace(experiment, denoising=weights)


def check_freeze(experiment: Experiment) -> None:
    """Errors: `UserError` for an `optim.freeze` with which nothing of a U-Net would train."""
    freeze = experiment.optim.freeze
    if freeze is Freeze.LORA and experiment.needs_image_encoder:
        raise UserError(
            "config.optim.freeze=lora: does not train the map from pictures to text states: leave "
            "config.denoising.image_prompts=none, or give all"
        )
    if freeze is Freeze.DECODER:
        raise UserError(
            "config.optim.freeze=decoder: for stage=video_vae only; give all, temporal, adaptor or lora"
        )
    only_temporal, temporal = (
        freeze in (Freeze.TEMPORAL, Freeze.ADAPTOR),
        experiment.model.unet.temporal,
    )
    if only_temporal and temporal is None:
        raise UserError(
            f"config.optim.freeze={freeze.value}: the model has no temporal layers "
            "(config.model.unet.temporal), so nothing would train; give all"
        )
    if only_temporal and temporal is not None and not trains_layers(freeze, temporal):
        raise UserError(
            f"config.optim.freeze={freeze.value}: no layer of config.model.unet.temporal would train "
            f"(mixing={temporal.mixing.value}, adaptors={temporal.adaptors}); give all"
        )
