"""The making of a data set, from the arguments to the last line."""

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.data.records import VALIDATION, frame_features, latent_features, to_png
from magicvideo_jax.media.contact_sheet import contact_sheet, save_sheet
from magicvideo_jax.media.decoder_pool import DecodedClip, DecoderPool
from magicvideo_jax.preparation.clip_listing import Entry, Listing, list_clips
from magicvideo_jax.preparation.data_set import (
    ClipSamplingConfig,
    Content,
    Shard,
    begin_data_set,
    is_complete,
    job_of,
    make_shards,
    reports,
    shards_of,
    split_of,
)
from magicvideo_jax.runtime import processes
from magicvideo_jax.runtime.compilation import enable_compilation_cache
from magicvideo_jax.runtime.progress import say

_FORMAT = 2
"""Of prepare.json."""
_SHEET_CLIPS = 16
_MOMENT = 0.5
_AT_ONCE = 8
"""Clips that are encoded together."""


@dataclass(frozen=True)
class PrepareRequest:
    """What was asked for."""

    videos: Path
    captions: Path | None
    out: Path
    vae: str = "embedded"
    text: str | None = None
    """Weights whose text encoder reads the captions beforehand."""
    pixels: bool = False
    look: ClipSamplingConfig = field(default_factory=ClipSamplingConfig)
    workers: int = 2
    timeout: float = 60.0
    part: tuple[int, int] = (0, 1)


def prepare_data_set(request: PrepareRequest) -> None:
    """Makes the set, or this process' part of it, and says what became of every clip."""
    _check(request)
    listing = list_clips(request.videos, request.captions)
    identities, content, features = _pixels() if request.pixels else _latents(request)
    shards = shards_of(listing.entries, request.look)
    begin_data_set(request.out, _settings(request, listing, identities))
    say(f"writing {request.out}: {len(listing.entries)} clips, {len(shards)} shards")
    with DecoderPool(request.workers, timeout=request.timeout) as decoders:
        whole = make_shards(
            request.out,
            shards,
            request.look,
            content,
            features,
            decoders=decoders,
            at_once=_AT_ONCE,
            part=request.part,
        )
    if processes.process_count() == 1:
        _say_what_became(request, shards[request.part[0] :: request.part[1]], whole=whole)
    elif processes.is_leader():
        while not is_complete(request.out, shards):  # a host that dies ends the others, too
            time.sleep(_MOMENT)
        _say_what_became(request, shards, whole=True)


def check_data_set(request: PrepareRequest) -> None:
    """Report what `prepare_data_set` would do, from the captions and some clips; writes only a contact sheet."""
    _check(request)
    listing = list_clips(request.videos, request.captions)
    entries = listing.entries
    held_out = sum(split_of(entry.name, request.look.validation) == VALIDATION for entry in entries)
    captions = [len(entry.captions) for entry in entries]
    print(f"clips       {len(entries)}, {held_out} of them for evaluation")
    print(f"captions    {sum(captions)}; {captions.count(0)} clips have none")
    print(
        f"left out    {listing.unnamed} clips that no caption names; {listing.absent} captions without their clip"
    )
    print(
        f"would write {request.out}: {len(shards_of(entries, request.look))} shards, {_size(request, len(entries))}"
    )
    some = [
        entries[i * len(entries) // min(_SHEET_CLIPS, len(entries))]
        for i in range(min(_SHEET_CLIPS, len(entries)))
    ]
    with DecoderPool(request.workers, timeout=request.timeout) as decoders:
        found = list(decoders.clips([job_of(entry, request.look) for entry in some]))
    shown = [
        (entry, clip)
        for entry, clip in zip(some, found, strict=True)
        if isinstance(clip, DecodedClip)
    ]
    for entry, clip in zip(some, found, strict=True):
        if not isinstance(clip, DecodedClip):
            print(f"skipped     {entry.name}: {clip.reason}")
    if shown:
        sheet = request.out.with_name(f"{request.out.name}-check.png")
        titles = [
            f"{entry.captions[0] if entry.captions else entry.name} ({clip.fps:.3g} fps)"
            for entry, clip in shown
        ]
        save_sheet(contact_sheet([clip.frames for _, clip in shown], titles), sheet)
        print(f"sheet       {sheet}: {len(shown)} clips as they would be seen")


Made = tuple[dict[str, Any], Content, Any]
"""Whose latents and text states they are, what is kept of clips, and as which features."""


def _pixels() -> Made:
    return (
        {"latents": None},
        lambda clips, _: [{"frames": to_png(clip)} for clip in clips],
        frame_features(),
    )


def _latents(request: PrepareRequest) -> Made:
    # Only now: pixels need no JAX.
    from magicvideo_jax.preparation.latent_encoder import open_latent_encoder
    from magicvideo_jax.preparation.text_encoder import open_caption_encoder

    enable_compilation_cache()
    encoder = open_latent_encoder(request.vae, argument="--vae")
    factor, sizes = encoder.identity["factor"], request.look.sizes
    for height, width in sizes:
        if height % factor or width % factor:
            raise UserError(
                f"--size={width}x{height}: give multiples of {factor}, the VAE's factor"
            )
    encode = encoder.batches(_AT_ONCE)
    shape = encoder.shape(request.look.frames, *sizes[0])
    shape = shape if len(sizes) == 1 else (shape[0], None, None, shape[3])
    read = None if request.text is None else open_caption_encoder(request.text, argument="--text")

    def content(clips: np.ndarray, entries: Sequence[Entry]) -> list[dict[str, Any]]:
        return [
            {"latents": latents} | ({} if read is None else {"text_states": read(entry.captions)})
            for latents, entry in zip(encode(clips), entries, strict=True)
        ]

    identities = {"latents": encoder.identity} | ({} if read is None else {"text": read.identity})
    return identities, content, latent_features(shape, None if read is None else read.shape)


def _check(request: PrepareRequest) -> None:
    look = request.look
    if request.pixels and request.text is not None:
        raise UserError("--text: kept beside latents; leave it out, or --pixels")
    for name, value in (
        ("frames", look.frames),
        ("per_shard", look.per_shard),
        ("workers", request.workers),
        ("timeout", request.timeout),
    ):
        if value < 1:
            raise UserError(f"--{name}={value}: give at least 1")
    for height, width in look.sizes:
        if height < 8 or width < 8:
            raise UserError(f"--size={width}x{height}: give at least 8 pixels a side")
    if len(set(look.sizes)) < len(look.sizes):
        raise UserError("--size: the same size is given twice")
    if not 0 < look.fps[0] <= look.fps[1]:
        raise UserError(
            f"--fps={look.fps[0]:g}-{look.fps[1]:g}: give the lower rate first, more than 0"
        )
    if not 0 <= look.validation < 1:
        raise UserError(f"--validation={look.validation}: give a share from 0 to less than 1")


def _settings(
    request: PrepareRequest, listing: Listing, identities: dict[str, Any]
) -> dict[str, Any]:
    """All that the bytes of the set follow from."""
    names = hashlib.sha256()
    for entry in listing.entries:
        names.update(json.dumps([entry.name, entry.captions]).encode())
    return {
        "format": _FORMAT,
        **dataclasses.asdict(request.look),
        "clips": len(listing.entries),
        "clips_sha256": names.hexdigest(),
        **identities,
    }


def _size(request: PrepareRequest, clips: int) -> str:
    """About, since nothing is opened for it."""
    look = request.look
    largest = max(look.sizes, key=math.prod)
    most = "" if len(look.sizes) == 1 else "at most "
    if request.pixels:
        return f"at most {clips * look.frames * math.prod(largest) * 3 / 2**20:,.0f} MiB of frames"
    from magicvideo_jax.preparation.latent_encoder import open_latent_encoder

    shape = open_latent_encoder(request.vae, argument="--vae").shape(look.frames, *largest)
    return f"{most}{2 * clips * math.prod(shape) / 2**20:,.0f} MiB of latents"


def _say_what_became(request: PrepareRequest, shards: Sequence[Shard], *, whole: bool) -> None:
    """The last lines, about these shards."""
    found = reports(request.out, shards)
    skipped = [line for report in found for line in report["skipped"]]
    used = [size for report in found for size in report["used"]]
    print(f"used     {len(used)} clips")
    for number, (height, width) in enumerate(request.look.sizes):
        if len(request.look.sizes) > 1:
            print(f"  {width}x{height}: {used.count(number)}")
    print(
        f"skipped  {len(skipped)} clips"
        + (f": {request.out / 'skipped.jsonl'}" if skipped and whole else "")
    )
    for line in skipped[:5]:
        print(f"  {line['video']}: {line['reason']}")
    if not whole:
        print("the other parts are not done yet")
