"""What a stage of training is: everything in which one thing that is trained differs from another."""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from magicvideo_jax.core.class_names import ClassNames
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.types import KnownFrames, Params, SmallClips
from magicvideo_jax.data.tokenizer import Tokenize
from magicvideo_jax.evaluation.metrics import Scores
from magicvideo_jax.experiment.config import Component, Experiment
from magicvideo_jax.experiment.datasets import Precompute
from magicvideo_jax.experiment.generator import Generator
from magicvideo_jax.experiment.held_out import HeldOut
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.sampling.step_watch import StepWatch
from magicvideo_jax.training.step import Objective
from magicvideo_jax.weights.fitting import UNetTask

PreviewRows = list[tuple[str, UInt8[np.ndarray, "t h w 3"]]]
"""Clips and the captions under which a contact sheet shows them."""


@runtime_checkable
class Evaluator(Protocol):
    """Evaluation of a run on held-out data. `params` are the parameters of all its networks."""

    def preview(self, params: Params) -> PreviewRows:
        """A few held-out examples, the same at every call."""
        ...

    def metrics(self, params: Params) -> Scores:
        """Metrics over `evaluate.clips` held-out examples."""
        ...


class Stage:
    """Base class of the stages. A stage is a name in `config.stage`, and these answers.

    A new stage is a subclass in a file of its own, and its object in `registry.STAGES`.
    """

    name: str
    animates_pictures = False
    """Whether clips are sampled from pictures alone, each its first frame."""
    reads_captions = False
    """Whether it learns from captions, and samples from prompts. If so, examples have token ids (or precomputed text
    states) and a frame rate beside pixels or latents."""
    trains_single_images = False
    """Whether examples are images: clips of one frame, without temporal layers."""
    default_metrics: tuple[str, ...] = ()
    """Metrics of `evaluation/metrics.py` for a config that names none."""

    task = UNetTask.GENERATE
    """Task of its U-Net, if it has one: that of the weights it may begin with."""
    given_channels = 0
    """Channels that its U-Net always reads beside the latents."""

    def metrics_of(self, experiment: Experiment) -> tuple[str, ...]:
        """Names of the metrics that a run is evaluated by: those of its config, or the stage's."""
        return experiment.evaluate.metrics or self.default_metrics

    def class_names(self, experiment: Experiment) -> ClassNames | None:
        """Names that its captions and prompts are, of a stage that learns from classes; None for others."""
        return None

    def precompute(self, experiment: Experiment, networks: Networks) -> Precompute | None:
        """What precomputed examples hold in place of pixels; None: latents of the VAE."""
        return None

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
    ) -> Generator:
        """What samples clips of prompts."""
        return Generator(
            experiment,
            networks,
            tokenize,
            frames=frames,
            size=size,
            as_images=self.trains_single_images,
            batch_size=batch_size,
            starts=networks.start,
            watch=watch,
        )

    def components(self, experiment: Experiment) -> tuple[Component, ...]:
        """The networks that the stage needs, trained or frozen."""
        raise NotImplementedError

    def frames(self, experiment: Experiment) -> int:
        """Frames of an example."""
        return 1 if self.trains_single_images else experiment.data.frames

    def held_out_frames(self, experiment: Experiment) -> int:
        """Frames of what it is evaluated on."""
        return self.frames(experiment)

    def known_frames(self, experiment: Experiment) -> tuple[bool, ...] | None:
        """Frames of held-out clips that samples of them are told; None: none are."""
        return None

    def sample_clips(self, experiment: Experiment, number: int) -> SmallClips | KnownFrames | None:
        """What requests to sample are made of beside prompts, in the right shape; None: of nothing else."""
        return None

    def check(self, experiment: Experiment) -> None:
        """Errors: `UserError` naming the config field for what this stage cannot train with."""

    def objective(
        self, experiment: Experiment, networks: Networks, tokenize: Tokenize | None
    ) -> Objective:
        """The loss. `tokenize` is given to stages that read captions."""
        raise NotImplementedError

    def evaluator(
        self,
        experiment: Experiment,
        networks: Networks,
        tokenize: Tokenize | None,
        held_out: HeldOut,
    ) -> Evaluator:
        """Previews and metrics on held-out data."""
        raise NotImplementedError

    def notes(self, experiment: Experiment) -> tuple[str, ...]:
        """Lines to print before step 0, such as a loss term that is left out."""
        return ()

    def finished(self, experiment: Experiment, scores: Scores) -> Experiment:
        """The experiment as the run folder keeps it after the last step, given the final scores."""
        return experiment


def refuse_video_options(experiment: Experiment) -> None:
    """Errors: `UserError` for options that only text to video reads."""
    for name in ("joint_images", "uncaptioned_fraction", "late_fraction"):
        value = getattr(experiment.data, name)
        if value:
            raise UserError(f"config.data.{name}={value}: for stage=video only; leave it out")
    if experiment.denoising.known_frames.total:
        raise UserError("config.denoising.known_frames: for stage=video only; leave it out")


def refuse_image_prompts(experiment: Experiment) -> None:
    """Errors: `UserError` for conditioning on frames, of a stage that cannot sample or learn so."""
    if experiment.needs_image_encoder:
        raise UserError(
            f"config.denoising.image_prompts={experiment.denoising.image_prompts.value}: not for "
            f"stage={experiment.stage}; give none"
        )
