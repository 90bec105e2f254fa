"""The auto-encoder of latent flow (LFDM): frames as their first one, warped."""

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.data.tokenizer import Tokenize
from magicvideo_jax.experiment.animation.flow_networks import FlowNetworks
from magicvideo_jax.experiment.config import Component, Experiment
from magicvideo_jax.experiment.held_out import HeldOut
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.stages.latent_flow_evaluator import LatentFlowEvaluator
from magicvideo_jax.experiment.stages.stage import (
    Evaluator,
    Stage,
    refuse_image_prompts,
    refuse_video_options,
)
from magicvideo_jax.training.latent_flow_objective import (
    LEAST_COMPARED_SIDE,
    latent_flow_objective,
)
from magicvideo_jax.training.optimizer import Freeze
from magicvideo_jax.training.step import Objective


class LatentFlowStage(Stage):
    """The auto-encoder, on pairs of frames of clips, without captions."""

    name = "latent_flow"
    # No PSNR: that of a clip that stands still can be infinite.
    default_metrics = ("clip_l1", "ssim", "lpips", "caption_accuracy")

    def components(self, experiment: Experiment) -> tuple[Component, ...]:
        if experiment.latent_flow.vgg:
            return (Component.LATENT_FLOW, Component.PERCEPTUAL)
        return (Component.LATENT_FLOW,)

    def check(self, experiment: Experiment) -> None:
        refuse_video_options(experiment)
        refuse_image_prompts(experiment)
        check_flow_model(experiment, Component.LATENT_FLOW)
        if experiment.data.precompute_examples:
            raise UserError(
                f"config.data.precompute_examples={experiment.data.precompute_examples}: latent flow "
                "is learned from pixels; give 0"
            )
        loss, size = experiment.latent_flow, experiment.data.size
        if not loss.pixels and not (loss.vgg and loss.perceptual):
            raise UserError(
                "config.latent_flow.vgg: nothing compares frames; give torchvision's file of VGG-19, "
                "or config.latent_flow.pixels=10 to compare pixels"
            )
        if loss.vgg and loss.perceptual and size < LEAST_COMPARED_SIDE:
            raise UserError(
                f"config.data.size={size}: features of VGG-19 compare pictures of "
                f"{LEAST_COMPARED_SIDE} pixels a side or more; give that, or no config.latent_flow.vgg"
            )

    def objective(
        self, experiment: Experiment, networks: Networks, tokenize: Tokenize | None
    ) -> Objective:
        config = experiment.latent_flow
        flow = FlowNetworks(networks).training_networks(with_features=bool(config.vgg))
        return latent_flow_objective(flow, config)

    def evaluator(
        self,
        experiment: Experiment,
        networks: Networks,
        tokenize: Tokenize | None,
        held_out: HeldOut,
    ) -> Evaluator:
        return LatentFlowEvaluator(experiment, networks, held_out, self.metrics_of(experiment))

    def notes(self, experiment: Experiment) -> tuple[str, ...]:
        if experiment.latent_flow.vgg or not experiment.latent_flow.perceptual:
            return ()
        return (
            "loss        without features of VGG-19: give torchvision's file as "
            "config.latent_flow.vgg; pixels are compared in their place",
        )


def check_flow_model(experiment: Experiment, trained: Component) -> None:
    """Check the auto-encoder of a model and what trains.

    Errors: `UserError` naming the config field.
    """
    flow, size, frames = experiment.model.latent_flow, experiment.data.size, experiment.data.frames
    if flow is None:
        raise UserError(
            f"config.model.latent_flow: stage={experiment.stage} needs its sizes: see configs/lfdm.py"
        )
    if experiment.model.trained != (trained,):
        raise UserError(
            f"config.model.trained: stage={experiment.stage} trains ('{trained.value}',); give that"
        )
    if experiment.optim.freeze is not Freeze.ALL:
        raise UserError(
            f"config.optim.freeze={experiment.optim.freeze.value}: stage={experiment.stage} trains "
            "whole networks; give all"
        )
    if frames < 2:
        raise UserError(
            f"config.data.frames={frames}: latent flow is that from a clip's first frame to others; "
            "give 2 or more"
        )
    if size % flow.side_multiple:
        raise UserError(
            f"config.data.size={size}: give a multiple of {flow.side_multiple}, which the networks of "
            "config.model.latent_flow halve"
        )
