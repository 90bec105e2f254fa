"""Diffusion of latent flow (LFDM): a picture is animated as a class says."""

import numpy as np

from magicvideo_jax.core.class_names import ClassNames
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.types import KnownFrames
from magicvideo_jax.data.tokenizer import Tokenize
from magicvideo_jax.experiment.animation.flow_networks import FlowNetworks
from magicvideo_jax.experiment.animation.picture_animator import PictureAnimator
from magicvideo_jax.experiment.config import DRAWN, Component, Experiment
from magicvideo_jax.experiment.datasets import Precompute
from magicvideo_jax.experiment.held_out import HeldOut
from magicvideo_jax.experiment.networks import FLOW, Networks
from magicvideo_jax.experiment.stages.latent_flow_stage import check_flow_model
from magicvideo_jax.experiment.stages.picture_evaluator import PictureEvaluator
from magicvideo_jax.experiment.stages.stage import (
    Evaluator,
    Stage,
    refuse_image_prompts,
    refuse_video_options,
)
from magicvideo_jax.sampling.step_watch import StepWatch
from magicvideo_jax.training.flow_diffusion_objective import flow_diffusion_objective
from magicvideo_jax.training.step import Objective


class FlowDiffusionStage(Stage):
    """The U-Net of flow, for clips of classes; the auto-encoder is that of `init_from`."""

    name = "flow_diffusion"
    animates_pictures = True
    default_metrics = ("caption_accuracy", "first_frame_error", "lpips")

    def class_names(self, experiment: Experiment) -> ClassNames:
        return ClassNames(experiment.class_names)

    def precompute(self, experiment: Experiment, networks: Networks) -> Precompute:
        return FlowNetworks(networks, experiment.flow_diffusion).precompute

    def clip_generator(
        self,
        experiment: Experiment,
        networks: Networks,
        tokenize: Tokenize,
        *,
        frames: int,
        size: tuple[int, ...] = (),
        batch_size: int | None = None,
        watch: StepWatch | None = None,
    ) -> PictureAnimator:
        return PictureAnimator(
            experiment,
            networks,
            tokenize,
            frames=frames,
            size=size,
            batch_size=batch_size,
            watch=watch,
        )

    def components(self, experiment: Experiment) -> tuple[Component, ...]:
        return FLOW

    def known_frames(self, experiment: Experiment) -> tuple[bool, ...]:
        return (True, *(False,) * (experiment.data.frames - 1))

    def check(self, experiment: Experiment) -> None:
        refuse_video_options(experiment)
        refuse_image_prompts(experiment)
        check_flow_model(experiment, Component.FLOW_UNET)
        model, data = experiment.model, experiment.data
        flow, unet, vectors = model.latent_flow, model.flow_unet, model.class_vectors
        assert flow is not None
        if unet is None or vectors is None:
            missing = "flow_unet" if unet is None else "class_vectors"
            raise UserError(
                f"config.model.{missing}: stage=flow_diffusion needs its sizes: see configs/lfdm.py"
            )
        if unet.feature != flow.feature_width:
            raise UserError(
                f"config.model.flow_unet.feature={unet.feature}: the auto-encoder's feature has "
                f"{flow.feature_width} channels; give that"
            )
        if 2**flow.downs != flow.flow_factor:
            raise UserError(
                f"config.model.latent_flow.downs={flow.downs}: the feature has to have the size of flow: "
                f"2^downs = flow_factor={flow.flow_factor}"
            )
        if vectors.width != unet.condition:
            raise UserError(
                f"config.model.class_vectors.width={vectors.width}: give {unet.condition}, "
                "config.model.flow_unet.condition"
            )
        if vectors.classes != len(experiment.class_names):
            raise UserError(
                f"config.model.class_vectors.classes={vectors.classes}: there are "
                f"{len(experiment.class_names)} classes; give that"
            )
        is_drawn = any(source.path == DRAWN for source in data.sources)
        if is_drawn and not (data.motion_captions or experiment.flow_diffusion.classes):
            raise UserError(
                "config.data.motion_captions=False: captions of drawn clips are then sentences, which "
                "are no classes; give True"
            )
        side = data.size // flow.flow_factor
        if side % unet.side_multiple:
            raise UserError(
                f"config.data.size={data.size}: flow of {side} x {side} is not a multiple of "
                f"{unet.side_multiple}, which config.model.flow_unet.multipliers need"
            )
        if data.precompute_examples and experiment.flow_diffusion.jitter.is_on:
            raise UserError(
                f"config.data.precompute_examples={data.precompute_examples}: precomputed flow is not "
                "jittered; give 0, or no config.flow_diffusion.jitter"
            )

    def objective(
        self, experiment: Experiment, networks: Networks, tokenize: Tokenize | None
    ) -> Objective:
        return flow_diffusion_objective(
            FlowNetworks(networks, experiment.flow_diffusion).diffusion_networks(),
            experiment.model.noise,
            experiment.denoising,
            experiment.flow_diffusion.jitter,
        )

    def evaluator(
        self,
        experiment: Experiment,
        networks: Networks,
        tokenize: Tokenize | None,
        held_out: HeldOut,
    ) -> Evaluator:
        assert tokenize is not None
        animator = self.clip_generator(experiment, networks, tokenize, frames=held_out.frames)
        return PictureEvaluator(experiment, animator, held_out, self.metrics_of(experiment))

    def sample_clips(self, experiment: Experiment, number: int) -> KnownFrames:
        t, side = experiment.data.frames, experiment.data.size
        is_known = np.tile(self.known_frames(experiment), (number, 1))
        return KnownFrames(np.zeros((number, t, side, side, 3), np.uint8), is_known)
