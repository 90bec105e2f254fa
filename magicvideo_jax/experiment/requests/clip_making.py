"""Requests turned into clips: the model loaded, the clips sampled, and the networks that refine them."""

from dataclasses import replace
from typing import Any

from magicvideo_jax.core.checks import FieldError, named
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.keys import check_seed
from magicvideo_jax.core.types import KnownFrames
from magicvideo_jax.experiment import pipeline
from magicvideo_jax.experiment.cascade.clip_refiner import ClipRefiner
from magicvideo_jax.experiment.cascade.clip_stream import ClipStream, SampledClips
from magicvideo_jax.experiment.cascade.clip_upscaling import LEAST_TILE, load_upscaling
from magicvideo_jax.experiment.cascade.frame_interpolation import load_interpolation
from magicvideo_jax.experiment.requests.clip_request import (
    NO_SOURCE,
    ClipRequest,
    ModelRequest,
    SourceRequest,
)
from magicvideo_jax.experiment.requests.clip_sources import check_source, read_source
from magicvideo_jax.experiment.requests.continuation import KNOWN_FRAMES, sample_onwards
from magicvideo_jax.experiment.stages.registry import stage_of
from magicvideo_jax.sampling.clip_split import SplitConfig, SplitKind
from magicvideo_jax.sampling.decoding import DecodeConfig
from magicvideo_jax.sampling.keyframes import MOST_FPS, SampleConfig, Sampler
from magicvideo_jax.sampling.windows import ContextConfig, ContextFusion

MOST_AT_ONCE = 4
"""Clips of a request in one batch."""


def check_clip_request(request: ClipRequest, source: SourceRequest = NO_SOURCE) -> None:
    """Check all that can be checked without the model, whose weights may take minutes to read.

    Errors: `FieldError` naming the argument. What depends on fields of the model's config (eta,
    fuse, reuse_noise, the usual overlap) is checked when the clip is made.
    """
    with named("--"):
        check_source(request, source)
        check_seed(request.seed)
        SampleConfig(
            **{name: value for name, value in _given_settings(request).items() if name != "eta"}
        )
    with named("--context_"):
        context = _given_context(request)
        alone = {name: context[name] for name in context if name not in ("reuse_noise", "fuse")}
        ContextConfig(**{"overlap": 0, **alone})


def check_model_request(request: ModelRequest) -> None:
    """Check all that can be checked before weights are read. Errors: `UserError`."""
    with named("--decode_"):
        DecodeConfig(frames=1 if request.decode_frames is None else request.decode_frames)
    _split(request)
    tile = request.upscale_tile
    if tile is not None and tile != 0 and tile < LEAST_TILE:
        raise UserError(f"--upscale_tile={tile}: give 0 (whole frames), or at least {LEAST_TILE}")


def load_model(request: ModelRequest) -> pipeline.Pipeline:
    """The pipeline of a request. Errors: those of `pipeline.load`."""
    pipe = pipeline.load(
        request.workdir,
        vae=request.vae,
        unet=request.unet,
        motion=request.motion,
        motion_norm=request.motion_norm,
        lora=request.lora,
        split=_split(request),
    )
    with named("--"):
        pipe.decode_in_parts(frames=request.decode_frames, tile=request.tile)
    return pipe


def _split(request: ModelRequest) -> SplitConfig:
    """How devices share clips. Errors: `FieldError` naming the argument."""
    with named("--"):
        by = _choice(SplitKind, "split", request.split)
    with named("--split_"):
        return SplitConfig(by, request.split_parts, request.split_axes, request.split_overlap)


def open_refiners(request: ModelRequest) -> list[ClipRefiner]:
    """The networks that clips go through afterwards, opened and not loaded. Errors: `UserError`."""
    refiners: list[ClipRefiner] = []
    if request.interpolate:
        refiners.append(load_interpolation(request.workdir, unet=request.interpolate))
    if request.upscale:
        refiners.append(_upscaling(request))
    elif request.super_resolution:
        raise UserError(
            f"--super_resolution={request.super_resolution}: give the folder of Stable Diffusion's x4 "
            "upscaler, whose VAE and text encoder it uses, as --upscale"
        )
    return refiners


def _upscaling(request: ModelRequest) -> ClipRefiner:
    tile = request.upscale_tile
    return load_upscaling(request.upscale, unet=request.super_resolution, tile=tile)


def clip_size(pipe: pipeline.Pipeline, request: ClipRequest) -> tuple[int, int, int]:
    """Frames, height and width of the clips of a request."""
    experiment = pipe.experiment
    size = request.size or experiment.sample.size or (experiment.data.size,) * 2
    return request.frames or stage_of(experiment).frames(experiment), size[0], size[1]


def sample_clips(
    pipe: pipeline.Pipeline, request: ClipRequest, source: SourceRequest = NO_SOURCE
) -> SampledClips:
    """The clips of a request. Errors: `UserError` naming the argument that this model refuses."""
    settings = sample_settings(request, pipe.experiment.sample)
    frames, height, width = clip_size(pipe, request)
    window = stage_of(pipe.experiment).frames(pipe.experiment)
    start, settings = read_source(
        request,
        source,
        settings,
        frames=min(frames, window),
        size=(height, width),
        keeps_size=stage_of(pipe.experiment).animates_pictures,
    )
    prompts = [request.prompt] * request.num
    common = {
        "seed": request.seed,
        "negative_prompt": request.negative_prompt,
        "batch_size": min(request.num, MOST_AT_ONCE),
    }
    with named("--"):  # a number of steps that the model's noise schedule does not have
        if isinstance(start, KnownFrames) and not stage_of(pipe.experiment).animates_pictures:
            overlap = request.known_frames or KNOWN_FRAMES
            clips = sample_onwards(
                pipe, prompts, settings, start, frames=frames, overlap=overlap, **common
            )
        else:
            clips = pipe.many(prompts, settings, frames=request.frames, start=start, **common)
    notes = pipe.notes_on(request.prompt, request.negative_prompt)
    return SampledClips(clips, settings.fps, notes)


def refined_stream(sampled: SampledClips, request: ClipRequest, refiner: ClipRefiner) -> ClipStream:
    """Clips with more frames or pixels; of the request count its prompt, seed and steps."""
    number, *size = sampled.clips.shape[:4]
    fps = min(sampled.fps * refiner.frame_rate_ratio, MOST_FPS)
    settings = replace(refiner.sample, fps=fps)
    if request.steps is not None:
        settings = replace(settings, steps=request.steps)
    shape = (number, *refiner.result_size(*size))
    parts = refiner.parts(
        sampled.clips, [request.prompt] * number, seed=request.seed, sample=settings
    )
    notes = dict.fromkeys((*sampled.notes, *refiner.notes_on(request.prompt)))
    return ClipStream(parts, shape, fps, tuple(notes))


def refine_clips(sampled: SampledClips, request: ClipRequest, refiner: ClipRefiner) -> SampledClips:
    """The same with all frames at once."""
    return refined_stream(sampled, request, refiner).whole()


def sample_settings(request: ClipRequest, usual: SampleConfig) -> SampleConfig:
    """Settings of a sampler: what is asked for, and the model's usual ones. Errors: `FieldError`."""
    with named("--"):
        given = _given_settings(request)
        if request.free_init is not None:
            given["free_init"] = replace(usual.free_init, iterations=request.free_init)
        with named("context_"):
            given["context"] = replace(usual.context, **_given_context(request))
        return replace(usual, **given)


def _given_settings(request: ClipRequest) -> dict[str, Any]:
    """Fields of a `SampleConfig` that are given."""
    names = (
        "sampler",
        "steps",
        "guidance",
        "guidance_rescale",
        "guidance_interval",
        "feature_cache",
        "eta",
        "strength",
        "fps",
        "size",
    )
    given = {name: getattr(request, name) for name in names}
    if given["sampler"] is not None:
        given["sampler"] = _choice(Sampler, "sampler", given["sampler"])
    return {name: value for name, value in given.items() if value is not None}


def _given_context(request: ClipRequest) -> dict[str, Any]:
    """Fields of a `ContextConfig` that are given, each as context_FIELD."""
    names = ("frames", "fuse", "overlap", "stride", "loop", "reuse_noise")
    given = {name: getattr(request, f"context_{name}") for name in names}
    if given["fuse"] is not None:
        given["fuse"] = _choice(ContextFusion, "fuse", given["fuse"])
    return {name: value for name, value in given.items() if value is not None}


def _choice(kind: Any, name: str, value: str) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise FieldError(
            f"{name}={value}: give one of {', '.join(one.value for one in kind)}"
        ) from None
