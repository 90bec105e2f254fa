"""Networks and files put into opened weights, one after the other; no parameter is read.

    another U-Net -> motion modules -> LoRA files -> norm convention of the motion modules

Each applies to what the one before has made: a LoRA may be one of motion modules.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.experiment.opening.run_weights import open_any_weights, without_experiment
from magicvideo_jax.models.temporal import MotionNorm
from magicvideo_jax.weights.clip_encoders import IMAGE_PROMPT
from magicvideo_jax.weights.components import MOTION, UNET, Weights
from magicvideo_jax.weights.fitting import UNetTask, check_parts, check_task
from magicvideo_jax.weights.flow_components import FLOW_UNET, LATENT_FLOW
from magicvideo_jax.weights.lora.lora_merge import with_loras
from magicvideo_jax.weights.motion_weights import joined, renormed


class AdditionArguments(NamedTuple):
    """Names of the arguments that say what is put into weights, for messages."""

    unet: str
    motion: str
    lora: str
    motion_norm: str


CONFIG = AdditionArguments(
    "config.unet_from", "config.motion_from", "config.lora", "config.motion_norm"
)
COMMAND_LINE = AdditionArguments("--unet", "--motion", "--lora", "--motion_norm")


def with_additions(
    weights: Weights,
    arguments: AdditionArguments,
    *,
    unet: str = "",
    motion: str = "",
    loras: Sequence[str] = (),
    motion_norm: MotionNorm = MotionNorm.AUTO,
) -> Weights:
    """Weights with the U-Net and the motion modules of others, with LoRA files, each `FILE` or
    `FILE:SCALE`, and with their motion modules in a norm convention. What is empty adds nothing.

    Errors: `UserError` naming one of `arguments` for what does not fit the weights.
    """
    weights = with_unet_of(weights, unet, argument=arguments.unet)
    if motion:
        other = open_any_weights(motion, argument=arguments.motion)
        # The experiment of a run of images says nothing about clips.
        weights = joined(without_experiment(weights), other, name=f"{arguments.motion}={motion}")
    weights = replace(weights, parts=with_loras(weights.parts, loras, argument=arguments.lora))
    return renormed(weights, motion_norm, name=f"{arguments.motion_norm}={motion_norm.value}")


def with_unet_of(
    weights: Weights,
    other_weights: str,
    *,
    argument: str,
    task: UNetTask = UNetTask.GENERATE,
) -> Weights:
    """Weights with the U-Net of other weights and its noise schedule; empty: unchanged.

    Errors: `UserError` naming `argument` where there is no U-Net, one of another task, or one that
    does not fit the VAE and the text encoder.
    """
    if not other_weights:
        return weights
    name = f"{argument}={other_weights}"
    other = open_networks(other_weights, argument=argument)
    if FLOW_UNET.folder in other.parts and LATENT_FLOW.folder in weights.parts:
        parts = {**weights.parts, FLOW_UNET.folder: other.parts[FLOW_UNET.folder]}
        return replace(weights, parts=parts, noise=other.noise)
    if UNET.folder not in other.parts:
        raise UserError(f"{name}: no U-Net: give a file of LaVie, or other weights of a U-Net")
    unet = other.parts[UNET.folder]
    # It has not learned to read the image states of the U-Net whose place it takes.
    kept = {name: part for name, part in weights.parts.items() if name != IMAGE_PROMPT.folder}
    weights = replace(
        without_experiment(weights),
        parts={**kept, UNET.folder: unet},
        noise=other.noise,
        noise_json=other.noise_json,
        sample_json=other.sample_json,
        notes=(*weights.notes, *other.notes),
    )
    check_task(unet.config, task, name)
    check_parts(weights, name)
    return weights


def open_networks(path: str, *, argument: str) -> Weights:
    """Open weights that are more than motion modules; `scratch` is none.

    Errors: those of `open_any_weights`; `UserError` naming `argument`.
    """
    if path == "scratch":
        return Weights()
    weights = open_any_weights(path, argument=argument)
    if MOTION.folder in weights.parts:
        raise UserError(
            f"{argument}={path}: motion modules alone: give Stable Diffusion 1.x weights here, and "
            "these as config.motion_from or --motion"
        )
    return weights
