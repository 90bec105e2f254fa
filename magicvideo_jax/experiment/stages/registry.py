"""The stages by name. This is the only place that lists them."""

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.evaluation.feature_metrics import FEATURE_METRICS
from magicvideo_jax.evaluation.metrics import METRICS
from magicvideo_jax.experiment.config import Experiment, check_experiment, check_networks
from magicvideo_jax.experiment.stages.consistency_distillation import ConsistencyDistillation
from magicvideo_jax.experiment.stages.flow_diffusion_stage import FlowDiffusionStage
from magicvideo_jax.experiment.stages.image_vae import ImageVAE
from magicvideo_jax.experiment.stages.interpolation_stage import FrameInterpolationStage
from magicvideo_jax.experiment.stages.latent_flow_stage import LatentFlowStage
from magicvideo_jax.experiment.stages.stage import Stage
from magicvideo_jax.experiment.stages.super_resolution_stage import SuperResolutionStage
from magicvideo_jax.experiment.stages.text_to_image import TextToImage
from magicvideo_jax.experiment.stages.text_to_video import TextToVideo
from magicvideo_jax.experiment.stages.video_vae_stage import VideoVAE

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        ImageVAE(),
        TextToImage(),
        TextToVideo(),
        FrameInterpolationStage(),
        SuperResolutionStage(),
        VideoVAE(),
        ConsistencyDistillation(),
        LatentFlowStage(),
        FlowDiffusionStage(),
    )
}


def stage_of(experiment: Experiment) -> Stage:
    """The stage that a config names. Errors: `UserError` for a name that no stage has."""
    if experiment.stage not in STAGES:
        raise UserError(f"config.stage={experiment.stage}: give one of {', '.join(STAGES)}")
    return STAGES[experiment.stage]


def check_fitted(experiment: Experiment) -> None:
    """Check a config whose networks have the sizes of the weights: what fields say together, the stage, and whether the
    networks fit each other. Errors: `UserError` naming the field."""
    check_experiment(experiment)
    check_stage(experiment)
    if stage_of(experiment).reads_captions:
        check_networks(experiment.model, given=stage_of(experiment).given_channels)
        if experiment.needs_image_encoder and experiment.model.image_prompt is None:
            raise UserError(
                f"config.denoising.image_prompts={experiment.denoising.image_prompts.value}: the model "
                "has no image encoder: give one of CLIP as config.image_encoder_from"
            )


def check_stage(experiment: Experiment) -> None:
    """Check a config against its stage and the names of its metrics. Errors: `UserError` naming the field."""
    stage = stage_of(experiment)
    for name in experiment.evaluate.metrics:
        if name in FEATURE_METRICS:
            raise UserError(
                f"config.evaluate.metrics: {name} needs weights that a config does not name: "
                f"evaluate --metrics={name} --network={FEATURE_METRICS[name].network}=FILE"
            )
        if name not in METRICS:
            raise UserError(
                f"config.evaluate.metrics: there is no metric {name}; there are "
                f"{', '.join((*METRICS, *FEATURE_METRICS))}"
            )
    stage.check(experiment)
