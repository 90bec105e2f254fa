"""Super-resolution: a U-Net that makes large frames of small ones, learned from single images."""

import numpy as np

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.types import SmallClips
from magicvideo_jax.data.tokenizer import Tokenize
from magicvideo_jax.experiment.config import Component, Experiment
from magicvideo_jax.experiment.held_out import HeldOut
from magicvideo_jax.experiment.networks import PIPELINE, Networks
from magicvideo_jax.experiment.stages.prompt_stage import check_freeze
from magicvideo_jax.experiment.stages.stage import (
    Evaluator,
    Stage,
    refuse_image_prompts,
    refuse_video_options,
)
from magicvideo_jax.experiment.stages.super_resolution_evaluator import (
    SuperResolutionEvaluator,
    small_clips,
)
from magicvideo_jax.training.step import Objective
from magicvideo_jax.training.super_resolution_objective import super_resolution_objective
from magicvideo_jax.weights.fitting import PICTURE_CHANNELS, UNetTask


class SuperResolutionStage(Stage):
    """The image U-Net of an upscaler, on captioned images; a clip in the data gives single frames.

    `data.frames` is the length of the held-out clips by which it is measured.
    """

    name = "super_resolution"
    reads_captions = True
    trains_single_images = True
    task = UNetTask.UPSCALE
    given_channels = PICTURE_CHANNELS
    default_metrics = ("psnr", "ssim", "lpips", "difference_error")

    def components(self, experiment: Experiment) -> tuple[Component, ...]:
        return PIPELINE

    def held_out_frames(self, experiment: Experiment) -> int:
        return experiment.data.frames

    def sample_clips(self, experiment: Experiment, number: int) -> SmallClips:
        side = experiment.data.size // experiment.model.vae.factor
        pixels = np.zeros((number, experiment.data.frames, side, side, 3), np.uint8)
        return small_clips(pixels, experiment.sample)

    def check(self, experiment: Experiment) -> None:
        refuse_video_options(experiment)
        refuse_image_prompts(experiment)
        check_freeze(experiment)
        model, data, config = experiment.model, experiment.data, experiment.super_resolution
        if model.unet.temporal is not None:
            raise UserError(
                "config.model.unet.temporal: super-resolution learns from single images; leave it out"
            )
        if data.precompute_examples:
            raise UserError(
                f"config.data.precompute_examples={data.precompute_examples}: super-resolution learns from "
                "pixels; give 0"
            )
        levels, most = model.unet.noise_levels, config.most_noise
        if levels <= most:
            raise UserError(
                f"config.super_resolution.most_noise={most}: config.model.unet.noise_levels={levels} is too few; "
                f"give {most + 1} or more there"
            )
        if most >= model.low_resolution_noise.num_train_timesteps:
            raise UserError(
                f"config.super_resolution.most_noise={most}: config.model.low_resolution_noise has "
                f"{model.low_resolution_noise.num_train_timesteps} levels; give less"
            )
        if experiment.sample.picture_noise > most:
            raise UserError(
                f"config.sample.picture_noise={experiment.sample.picture_noise}: the network learns levels up to "
                f"config.super_resolution.most_noise={most}; give at most that"
            )
        if config.crop % model.vae.factor or config.crop > data.size:
            raise UserError(
                f"config.super_resolution.crop={config.crop}: give 0, or a multiple of {model.vae.factor}, the VAE's "
                f"factor, up to config.data.size={data.size}"
            )

    def objective(
        self, experiment: Experiment, networks: Networks, tokenize: Tokenize | None
    ) -> Objective:
        assert tokenize is not None
        return super_resolution_objective(
            networks.denoising_networks(),
            experiment.model.noise,
            experiment.model.low_resolution_noise,
            experiment.super_resolution,
            experiment.denoising,
            factor=experiment.model.vae.factor,
            enlarged=networks.enlarged,
            null_ids=tokenize([""])[0],
        )

    def evaluator(
        self,
        experiment: Experiment,
        networks: Networks,
        tokenize: Tokenize | None,
        held_out: HeldOut,
    ) -> Evaluator:
        assert tokenize is not None
        return SuperResolutionEvaluator(
            experiment, networks, tokenize, held_out, self.metrics_of(experiment)
        )
