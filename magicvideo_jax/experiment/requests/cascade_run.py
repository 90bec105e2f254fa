"""The whole way of a prompt: keyframes, more frames, more pixels, each by a network of its own.

    cascade = (load(KEYFRAMES), load_interpolation(BETWEEN), load_upscaling(LARGER))
    for clips in run_cascade(cascade, [ClipRequest("a red circle moving left")], out=["clip.mp4"]):
        clips.read()

One network at a time is on the devices. Small clips are whole; of the last stage's frames there is
one part at a time, which goes into the file that is being encoded.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import repeat
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.files import check_room, check_writable
from magicvideo_jax.core.paths import local_path
from magicvideo_jax.experiment.cascade.clip_refiner import ClipRefiner
from magicvideo_jax.experiment.cascade.clip_stream import ClipStream, SampledClips
from magicvideo_jax.experiment.pipeline import Pipeline
from magicvideo_jax.experiment.requests.clip_making import clip_size, refined_stream, sample_clips
from magicvideo_jax.experiment.requests.clip_request import NO_SOURCE, ClipRequest, SourceRequest
from magicvideo_jax.media.clip_files import clip_writer, numbered_targets, usual_bytes
from magicvideo_jax.runtime.progress import Progress

Cascade = tuple[Pipeline, *tuple[ClipRefiner, ...]]
"""The stages in their order: clips of prompts, then any number of networks that refine them."""

Targets = list[tuple[int, str]]
"""Files of the clips of a request: the number of the clip, and the name of the file."""


def run_cascade(
    cascade: Cascade,
    requests: Sequence[ClipRequest],
    source: SourceRequest = NO_SOURCE,
    *,
    keep: str | Path = "",
    out: Sequence[str | Path] = (),
) -> Iterator[ClipStream]:
    """The clips of each request, made by the last stage while they are read, one request after the other.

    Into the folder `keep` go the clips of every stage (0_keyframes.mp4, 1_interpolated.mp4, 2_upscaled.mp4), as
    soon as they are whole; into the files `out`, one for each clip of all requests, those of the last.
    Errors, before anything is sampled: `UserError` for clips that are too short, and no room for the files.
    """
    sizes = _result_sizes(cascade, requests)
    targets = _targets(cascade, requests, keep, out)
    _check_room(sizes, targets)
    clips: list[SampledClips] = []
    for place, stage in enumerate(cascade):
        total = sum(
            request.num * frames
            for request, (frames, *_) in zip(requests, sizes[place], strict=True)
        )
        with Progress(total, _title(cascade, place, requests[0]), unit="frame") as progress:
            streams = (
                _passing(stream, files, progress)
                for stream, files in zip(
                    _streams(stage, requests, source, clips), targets[place], strict=True
                )
            )
            if stage is cascade[-1]:
                yield from streams
            else:
                clips = [stream.whole() for stream in streams]
        if len(cascade) > 1:
            stage.release()


def check_kept_folder(keep: str) -> None:
    """Check that stages can be kept in a folder. Errors: `UserError` naming `--keep`."""
    folder = local_path(keep, argument="--keep")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--keep={keep}: a file: give a folder, for the clips of every stage")
    check_writable(folder, folder=True)


def _result_sizes(
    cascade: Cascade, requests: Sequence[ClipRequest]
) -> list[list[tuple[int, int, int]]]:
    """Frames, height and width of each request's clips after every stage. Errors: `UserError` for too short ones."""
    pipe, *refiners = cascade
    sizes = [[clip_size(pipe, request) for request in requests]]
    for refiner in refiners:
        sizes.append([refiner.result_size(*size) for size in sizes[-1]])
    return sizes


def _streams(
    stage: Pipeline | ClipRefiner,
    requests: Sequence[ClipRequest],
    source: SourceRequest,
    clips: Sequence[SampledClips],
) -> Iterator[ClipStream]:
    """What a stage makes of the clips of the one before."""
    if isinstance(stage, Pipeline):
        return (sample_clips(stage, request, source).stream() for request in requests)
    return map(refined_stream, clips, requests, repeat(stage))


def _passing(stream: ClipStream, targets: Targets, progress: Progress) -> ClipStream:
    """A stream whose parts are counted and written on their way."""

    def parts() -> Iterator[UInt8[np.ndarray, "b k h w 3"]]:
        with ExitStack() as files:
            writers = [
                (clip, files.enter_context(clip_writer(name, fps=stream.fps)))
                for clip, name in targets
            ]
            for part in stream.parts:
                for clip, write in writers:
                    write(part[clip])
                progress.advance(part.shape[0] * part.shape[1])
                yield part
                del part  # before the next is made

    return replace(stream, parts=parts())


def _title(cascade: Cascade, place: int, request: ClipRequest) -> str:
    stage = cascade[place]
    steps = request.steps or stage.experiment.sample.steps
    counted = f"stage {place + 1} of {len(cascade)}, " if len(cascade) > 1 else ""
    return f"{counted}{stage.label}, {steps} steps"


def _targets(
    cascade: Cascade, requests: Sequence[ClipRequest], keep: str | Path, out: Sequence[str | Path]
) -> list[list[Targets]]:
    """The files of every stage and request."""
    number = sum(request.num for request in requests)
    targets = []
    for place, stage in enumerate(cascade):
        name = f"{keep}/{place}_{stage.result}.mp4"
        kept = _by_request(numbered_targets(name, number) if keep else (), requests)
        last = _by_request(out if stage is cascade[-1] else (), requests)
        targets.append([one + other for one, other in zip(kept, last, strict=True)])
    return targets


def _by_request(names: Sequence[str | Path], requests: Sequence[ClipRequest]) -> list[Targets]:
    left = iter(names)
    return [
        [(clip, str(name)) for clip, name in zip(range(request.num), left, strict=False)]
        for request in requests
    ]


def _check_room(sizes: list[list[tuple[int, int, int]]], targets: list[list[Targets]]) -> None:
    """Errors: `UserError` for files that have no room together."""
    check_room(
        {
            local_path(name, argument="path"): usual_bytes(name, *size)
            for stage in zip(sizes, targets, strict=True)
            for size, files in zip(*stage, strict=True)
            for _, name in files
        }
    )
