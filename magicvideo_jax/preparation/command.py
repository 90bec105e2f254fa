"""What `prepare` does: write a data set, and say what became of every clip."""

import dataclasses
import hashlib
import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.files import check_writable
from magicvideo_jax.media.decoder_pool import DecoderPool
from magicvideo_jax.preparation.clip_folder import SHEET_SUFFIX, printable
from magicvideo_jax.preparation.clip_listing import Listing, list_clips
from magicvideo_jax.preparation.data_set import (
    SKIPPED,
    are_done,
    begin_data_set,
    complete_data_set,
    is_complete,
    reports,
)
from magicvideo_jax.preparation.record_formats import frame_format, latent_format
from magicvideo_jax.preparation.record_writing import RecordFormat, write_shards
from magicvideo_jax.preparation.shards import ClipSamplingConfig, Shard, shards_of
from magicvideo_jax.runtime import processes
from magicvideo_jax.runtime.progress import say

_SETTINGS_VERSION = 2
"""Version of prepare.json."""
_POLL_SECONDS = 0.5
_BATCH_SIZE = 8
"""Clips that are encoded together."""


@dataclass(frozen=True)
class PrepareRequest:
    """Arguments of `prepare`."""

    videos: Path
    captions: Path | None
    out: Path
    vae: str = "embedded"
    text: str | None = None
    """Weights whose text encoder encodes the captions; None stores captions alone."""
    pixels: bool = False
    """Store frames instead of latents."""
    sampling: ClipSamplingConfig = field(default_factory=ClipSamplingConfig)
    workers: int = 2
    """Decoder processes."""
    timeout: float = 60.0
    """Seconds until a clip is skipped."""
    part: tuple[int, int] = (0, 1)
    """Which part of the shards this process writes, and of how many."""
    video_column: str = ""
    caption_column: str = ""

    def __post_init__(self) -> None:
        if self.pixels and self.text is not None:
            raise UserError("--text: its states are stored beside latents: leave out --pixels")
        if self.workers < 1:
            raise UserError(f"--workers={self.workers}: give at least 1")
        if not 1 <= self.timeout < math.inf:
            raise UserError(f"--timeout={self.timeout}: give at least 1 second")
        if os.path.realpath(self.out) == os.path.realpath(self.videos):
            raise UserError(f"--out={self.out}: this is the folder of the clips: give a new one")
        if not self.out.name:
            raise UserError(f"--out={self.out}: give a new folder")

    @property
    def sheet(self) -> Path:
        """Where `--check` writes its contact sheet."""
        return self.out.with_name(self.out.name + SHEET_SUFFIX)

    def listing(self) -> Listing:
        return list_clips(
            self.videos,
            self.captions,
            video_column=self.video_column,
            caption_column=self.caption_column,
            outputs=(self.out, self.sheet),
        )


def prepare_data_set(request: PrepareRequest) -> None:
    """Write the data set, or this process' part of it, and print what became of every clip."""
    check_writable(request.out, folder=True)
    listing = request.listing()
    form = _record_format(request)
    shards = shards_of(listing.entries, request.sampling)
    settings = _settings(request, listing, form)
    # The leader first: the others then find the folder begun, and compare their settings with its.
    processes.broadcast_from_leader(lambda: begin_data_set(request.out, settings))
    begin_data_set(request.out, settings)
    say(f"writing {request.out}: {len(listing.entries)} clips, {len(shards)} shards")
    say(f"captions: {listing.captions_from}")
    for some in listing.left_out:
        say(f"left out: {some}")
    mine = shards[request.part[0] :: request.part[1]]
    with DecoderPool(request.workers, timeout=request.timeout) as decoders:
        write_shards(
            request.out, mine, request.sampling, form, decoders=decoders, batch_size=_BATCH_SIZE
        )
    sizes = len(request.sampling.sizes)
    if processes.process_count() == 1:
        # Machines that know nothing of one another: whoever sees all shards completes the set.
        if are_done(request.out, shards):
            complete_data_set(request.out, shards, form.features, sizes=sizes)
        _print_result(request, mine, complete=is_complete(request.out, shards))
    elif processes.is_leader():
        while not are_done(request.out, shards):  # a process that fails ends this one, too
            time.sleep(_POLL_SECONDS)
        complete_data_set(request.out, shards, form.features, sizes=sizes)
        _print_result(request, shards, complete=True)


def _record_format(request: PrepareRequest) -> RecordFormat:
    if request.pixels:
        return frame_format()
    return latent_format(
        request.vae,
        request.text,
        frames=request.sampling.frames,
        sizes=request.sampling.sizes,
        batch_size=_BATCH_SIZE,
    )


def _settings(request: PrepareRequest, listing: Listing, form: RecordFormat) -> dict[str, Any]:
    """Everything that the bytes of the data set follow from."""
    names = hashlib.sha256()
    for entry in listing.entries:
        names.update(json.dumps([entry.name, entry.captions]).encode())
    return {
        "format": _SETTINGS_VERSION,
        **dataclasses.asdict(request.sampling),
        "clips": len(listing.entries),
        "clips_sha256": names.hexdigest(),
        **form.identities,
    }


def _print_result(request: PrepareRequest, shards: Sequence[Shard], *, complete: bool) -> None:
    found = reports(request.out, shards)
    skipped = [line for report in found for line in report["skipped"]]
    used = [size for report in found for size in report["used"]]
    print(f"used     {len(used)} clips")
    sizes = request.sampling.sizes
    for number, (height, width) in enumerate(sizes if len(sizes) > 1 else ()):
        print(f"  {width}x{height}: {used.count(number)}")
    listed = f": {request.out / SKIPPED}" if skipped and complete else ""
    print(f"skipped  {len(skipped)} clips{listed}")
    for line in skipped[:5]:
        print(f"  {printable(line['video'])}: {line['reason']}")
    if not complete:
        print("the other parts are not done yet")
