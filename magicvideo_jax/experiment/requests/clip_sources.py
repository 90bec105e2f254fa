"""What clips start from: a picture as their first frame or in place of the prompt, or a video, which goes on or is
edited."""

from dataclasses import replace

import numpy as np
from jaxtyping import UInt8

from magicvideo_jax.core.checks import FieldError
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.paths import local_path
from magicvideo_jax.core.types import EditedClips, KnownFrames, PicturePrompts
from magicvideo_jax.experiment.requests.clip_request import ClipRequest, SourceRequest
from magicvideo_jax.experiment.requests.continuation import KNOWN_FRAMES, known_beginning
from magicvideo_jax.media.decoder_pool import DecodeJob, decode_alone
from magicvideo_jax.media.frame_reader import ENDINGS
from magicvideo_jax.media.framing import FrameSize
from magicvideo_jax.media.picture_files import PICTURES, still_picture
from magicvideo_jax.media.timeline import ClipPart
from magicvideo_jax.sampling.keyframes import MOST_FPS, SampleConfig


def check_source(request: ClipRequest, source: SourceRequest) -> None:
    """Errors: `FieldError` for arguments that do not belong together, or a file that is not there."""
    if not request.prompt.strip() and not source.variation:
        raise FieldError("prompt is empty: give a text")
    if request.prompt.strip() and source.variation:
        raise FieldError(f"variation={source.variation}: give it or prompt, not both")
    for name in ("image", "video", "variation"):
        path = getattr(source, name)
        if path and not local_path(path, argument=f"--{name}").is_file():
            raise FieldError(f"{name}={path}: no such file")
        if path and not path.lower().endswith(ENDINGS):
            raise FieldError(f"{name}={path}: give a file that ends in {', '.join(ENDINGS)}")
    if request.strength is not None and not source.video:
        raise FieldError(f"strength={request.strength:g}: give the video to edit, as --video")


def read_source(
    request: ClipRequest,
    source: SourceRequest,
    settings: SampleConfig,
    *,
    frames: int,
    size: FrameSize,
    keeps_size: bool = False,
) -> tuple[KnownFrames | EditedClips | PicturePrompts | None, SampleConfig]:
    """What the clips of a request start from (None: noise alone), and the settings at its frame rate.

    Frames are resized and cropped to `size`; with `keeps_size` a first frame of another size is refused.
    Transparent ones lie over white. Errors: `UserError` that names the file.
    """
    if source.image:
        if keeps_size:
            _check_size(source.image, size)
        picture, _ = _frames(f"--image={source.image}", source.image, 1, size, settings.fps)
        return known_beginning(picture, frames=frames, number=request.num), settings
    if source.variation:
        name = f"--variation={source.variation}"
        picture, _ = _frames(name, source.variation, 1, size, settings.fps)
        return PicturePrompts(np.repeat(picture, request.num, axis=0)), settings
    if not source.video:
        return None, settings
    name, is_edited = f"--video={source.video}", request.strength is not None
    number = frames if is_edited else request.known_frames or KNOWN_FRAMES
    part = ClipPart.START if is_edited else ClipPart.END
    if not is_edited and number >= frames:
        raise UserError(f"--known_frames={number}: give less than the {frames} frames of the clip")
    clip, fps = _frames(name, source.video, number, size, settings.fps, part=part)
    settings = replace(settings, fps=min(fps, MOST_FPS))
    if is_edited:
        return EditedClips(np.repeat(clip[None], request.num, axis=0)), settings
    return known_beginning(clip, frames=frames, number=request.num), settings


def _check_size(path: str, size: FrameSize) -> None:
    """Errors: `UserError` for a picture of another size."""
    name = f"--image={path}"
    file = local_path(path, argument=name)
    if file.suffix.lower() not in PICTURES:
        raise UserError(f"{name}: give a picture ({', '.join(PICTURES)})")
    try:
        height, width = still_picture(file).shape[:2]
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    if (height, width) != size:
        raise UserError(
            f"{name}: has {width} x {height} pixels, but this model animates pictures of {size[1]} x "
            f"{size[0]}: resize it, or give --size={height}x{width}"
        )


def _frames(
    name: str,
    path: str,
    number: int,
    size: FrameSize,
    fps: float,
    *,
    part: ClipPart = ClipPart.START,
) -> tuple[UInt8[np.ndarray, "k h w 3"], float]:
    """Frames of one part of a file at a frame rate, or at its own where that is lower; and the rate."""
    job = DecodeJob(local_path(path, argument=name), (0,), number, (size,), (fps, fps), part)
    decoded = decode_alone(job, name)
    return decoded.frames, decoded.fps
