"""Everything that can be asked of a clip and of a model, as data that is checked and needs no JAX.

The names of the fields are those of the arguments of `sample`, and of the values in a page's link.
"""

from dataclasses import dataclass

from magicvideo_jax.core.checks import FieldError, at_least, share
from magicvideo_jax.core.text import is_utf8

LONGEST_PROMPT = 10_000
"""Letters; far more than the tokens that any text encoder reads."""


@dataclass(frozen=True)
class ClipRequest:
    """A clip to sample. What is None is as the model's config says."""

    prompt: str
    """Empty only where a picture is in its place."""
    negative_prompt: str = ""
    """Prompt to steer away from."""
    seed: int = 0
    num: int = 1
    """Number of clips, each from other noise."""
    sampler: str | None = None
    """Value of a `Sampler`."""
    steps: int | None = None
    guidance: float | None = None
    guidance_rescale: float | None = None
    guidance_interval: tuple[float, ...] | None = None
    """Least and largest share of diffusion time at which guidance applies."""
    feature_cache: int | None = None
    eta: float | None = None
    strength: float | None = None
    """0 to 1: how much a video is changed."""
    known_frames: int | None = None
    """Number of frames that a longer clip takes over from what it goes on with."""
    fps: float | None = None
    frames: int | None = None
    size: tuple[int, ...] | None = None
    """Height and width in pixels."""
    context_frames: int | None = None
    context_fuse: str | None = None
    """Value of a `ContextFusion`."""
    context_overlap: int | None = None
    context_stride: int | None = None
    context_loop: bool | None = None
    context_reuse_noise: bool | None = None
    free_init: int | None = None
    """How often FreeInit samples a clip."""

    def __post_init__(self) -> None:
        """Errors: `FieldError`. What needs JAX is checked by `check_clip_request`."""
        for name in ("prompt", "negative_prompt"):
            text = getattr(self, name)
            if not is_utf8(text):
                raise FieldError(f"{name} is not UTF-8: set a UTF-8 locale, or retype it")
            if len(text) > LONGEST_PROMPT:
                raise FieldError(
                    f"{name} has {len(text)} letters: give at most {LONGEST_PROMPT}, of which a text "
                    "encoder reads the first few dozen words"
                )
        at_least(1, self, "num", "frames", "free_init", "known_frames")
        share(self, "strength")


@dataclass(frozen=True)
class SourceRequest:
    """Files that clips start from. They are no part of a `ClipRequest`, which may come from another machine."""

    image: str = ""
    """A picture that shall be the first frame."""
    video: str = ""
    """A clip that is edited where the request has a strength, and otherwise goes on."""
    variation: str = ""
    """A picture in place of the prompt."""

    def __post_init__(self) -> None:
        given = [name for name in ("image", "video", "variation") if getattr(self, name)]
        if len(given) > 1:
            first, second, *_ = given
            raise FieldError(f"{first}={getattr(self, first)}: give it or {second}, not both")


NO_SOURCE = SourceRequest()


@dataclass(frozen=True)
class ModelRequest:
    """A model to load: weights, what is put into them, and how much it decodes at once."""

    workdir: str
    """A work folder, the name of embedded weights, or weights in any known form."""
    unet: str = ""
    motion: str = ""
    motion_norm: str = "auto"
    """Value of a `MotionNorm`."""
    vae: str = ""
    lora: tuple[str, ...] = ()
    """LoRA files, each `FILE` or `FILE:SCALE`."""
    decode_frames: int | None = None
    tile: int | None = None
    interpolate: str = ""
    upscale: str = ""
    super_resolution: str = ""
    upscale_tile: int | None = None
    """Side in pixels of the parts of small frames that are enlarged at once."""
    split: str = "none"
    """Value of a `SplitKind`: what devices that share a clip divide."""
    split_parts: int = 0
    split_axes: str = "t"
    split_overlap: float = 0.5


def parse_interval(text: str | None) -> tuple[float, ...] | None:
    """Both numbers of `0.2,0.8`; None of None. Errors: `FieldError` for anything else."""
    if text is None:
        return None
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise FieldError(f"guidance_interval={text}: give two numbers, as in 0.2,0.8") from None
    return low, high


def parse_size(text: str | None) -> tuple[int, ...] | None:
    """Height and width of `320x512`; None of None. Errors: `FieldError` for anything else."""
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(
        side.isascii() and side.isdecimal() and len(side) < 6 and int(side) for side in sides
    ):
        raise FieldError(f"size={text}: give height and width in pixels, as in 320x512")
    return tuple(map(int, sides))
