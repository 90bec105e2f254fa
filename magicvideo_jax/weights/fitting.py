"""Comparing the parts of opened weights with one another, before any parameter is read."""

from enum import Enum

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.models.unet import UNetConfig
from magicvideo_jax.weights.components import TEXT, UNET, VAE, Weights
from magicvideo_jax.weights.tokenizer_files import tokenizer_size


class UNetTask(Enum):
    """Task of a U-Net, by what it is given beside noisy latents and a text."""

    GENERATE = "text to image or video"
    """Nothing."""
    INTERPOLATE = "frame interpolation"
    """The latents of keyframes, one for each frame (LaVie)."""
    UPSCALE = "super-resolution"
    """A small picture for each frame, and its level of noise (Stable Diffusion's x4 upscaler)."""


PICTURE_CHANNELS = 3
"""Channels of the small picture that an upscaler is given."""

_MORE_CHANNELS = {
    1: "depth-to-image: its U-Net also takes a depth map",
    3: "an upscaler: its U-Net also takes a small image",
    4: "image editing (InstructPix2Pix): its U-Net also takes an image",
    5: "inpainting: its U-Net also takes a mask and a masked image",
}
"""Tasks known by the channels that their U-Nets take beside the latents."""


def task_of(unet: UNetConfig) -> UNetTask | None:
    """The task of a U-Net, if it is one that is supported."""
    given = unet.channels_in - unet.channels_out
    if given == 0:
        return UNetTask.GENERATE
    if given == PICTURE_CHANNELS and unet.noise_levels:
        return UNetTask.UPSCALE
    takes_keyframes = unet.temporal is not None and unet.temporal.first_and_previous
    return UNetTask.INTERPOLATE if given == unet.channels_out and takes_keyframes else None


_ARGUMENT_OF = {
    UNetTask.GENERATE: "--unet or config.unet_from",
    UNetTask.INTERPOLATE: "--interpolate",
    UNetTask.UPSCALE: "--super_resolution, or its whole pipeline as --upscale",
}


def check_task(unet: UNetConfig, task: UNetTask, name: str) -> None:
    """Check that a U-Net has a task. Errors: `UserError` that begins with `name`."""
    found = task_of(unet)
    if found not in (None, task):
        raise UserError(
            f"{name}: a U-Net for {found.value}, not for {task.value}: give it as {_ARGUMENT_OF[found]}"
        )


def check_parts(weights: Weights, where: str) -> None:
    """Check that U-Net, VAE, text encoder and tokenizer belong together.

    Errors: `UserError` naming `where`, the two parts and their numbers.
    """
    configs = {name: part.config for name, part in weights.parts.items()}
    unet, vae, text = (configs.get(kind.folder) for kind in (UNET, VAE, TEXT))
    if unet is not None:
        latents = unet.channels_out if vae is None else vae.latent_channels
        is_known = task_of(unet) is not None and unet.channels_out == latents
        if unet.channels_in != latents and not is_known:
            task = _MORE_CHANNELS.get(unet.channels_in - latents)
            raise UserError(
                f"{where}: the U-Net takes {unet.channels_in} channels and latents have {latents}"
                f"{f' (weights for {task})' if task else ''}: give a text-to-image model"
            )
        if unet.channels_out != latents:
            raise UserError(
                f"{where}: the U-Net predicts {unet.channels_out} channels and latents have "
                f"{latents}: give a text-to-image model"
            )
    if unet is not None and text is not None and unet.context != text.width:
        raise UserError(
            f"{where}: the text encoder's states have {text.width} numbers and the U-Net attends to "
            f"{unet.context}: give the text encoder that the U-Net was trained with"
        )
    if weights.tokenizer is not None:
        size = tokenizer_size(weights.tokenizer)
        if text is not None and size > text.vocabulary:
            raise UserError(
                f"{weights.tokenizer}: {size} tokens and the text encoder knows {text.vocabulary}: "
                "give the tokenizer of these weights"
            )
