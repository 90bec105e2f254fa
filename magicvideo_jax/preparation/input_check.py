"""What `prepare --check` does: read the input, decode some clips, and say what would be written."""

import math

from magicvideo_jax.core.files import check_writable
from magicvideo_jax.data.records import VALIDATION
from magicvideo_jax.media.contact_sheet import contact_sheet, save_sheet
from magicvideo_jax.media.decoder_pool import DecodedClip, DecoderPool
from magicvideo_jax.preparation.clip_folder import printable
from magicvideo_jax.preparation.clip_listing import Listing
from magicvideo_jax.preparation.command import PrepareRequest
from magicvideo_jax.preparation.shards import job_of, shards_of, split_of

_SHEET_CLIPS = 16


def check_input(request: PrepareRequest) -> None:
    """Print what `prepare_data_set` would do, with a number for everything that it would pass over.

    Decodes up to 16 clips and writes nothing but a contact sheet of them.
    """
    check_writable(request.sheet)
    listing = request.listing()
    _print_counts(request, listing)
    count = min(_SHEET_CLIPS, len(listing.entries))
    some = [listing.entries[i * len(listing.entries) // count] for i in range(count)]
    with DecoderPool(request.workers, timeout=request.timeout) as decoders:
        results = list(decoders.clips([job_of(entry, request.sampling) for entry in some]))
    titles, clips = [], []
    for entry, result in zip(some, results, strict=True):
        if isinstance(result, DecodedClip):
            title = entry.captions[0] if entry.captions else printable(entry.name)
            titles.append(f"{title} ({result.fps:.3g} fps)")
            clips.append(result.frames)
        else:
            print(f"skipped     {printable(entry.name)}: {result.reason}")
    if clips:
        save_sheet(contact_sheet(clips, titles), request.sheet)
        print(f"sheet       {request.sheet}: {len(clips)} clips as they would be seen")


def _print_counts(request: PrepareRequest, listing: Listing) -> None:
    entries, validation = listing.entries, request.sampling.validation
    held_out = sum(split_of(entry.name, validation) == VALIDATION for entry in entries)
    linked = f"; {listing.linked} through linked folders" if listing.linked else ""
    print(f"clips       {len(entries)}, {held_out} of them for evaluation{linked}")
    captions = [len(entry.captions) for entry in entries]
    print(f"captions    {sum(captions)}; {captions.count(0)} clips have none")
    print(f"from        {listing.captions_from}")
    for some in listing.left_out or ("nothing",):
        print(f"left out    {some}")
    shards = shards_of(entries, request.sampling)
    print(f"would write {request.out}: {len(shards)} shards, {_size(request, len(entries))}")


def _size(request: PrepareRequest, clips: int) -> str:
    """An estimate, since no clip is opened for it."""
    sizes, frames = request.sampling.sizes, request.sampling.frames
    largest = max(sizes, key=math.prod)
    if request.pixels:
        return f"at most {clips * frames * math.prod(largest) * 3 / 2**20:,.0f} MiB of frames"
    # Imported here: records of frames need no JAX.
    from magicvideo_jax.preparation.latent_encoder import open_latent_encoder

    shape = open_latent_encoder(request.vae, argument="--vae").shape(frames, *largest)
    most = "" if len(sizes) == 1 else "at most "
    return f"{most}{2 * clips * math.prod(shape) / 2**20:,.0f} MiB of latents"
