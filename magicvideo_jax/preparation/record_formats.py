"""The two forms of records: frames, or latents with text states."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.data.records import frame_features, latent_features, to_png
from magicvideo_jax.media.framing import FrameSize
from magicvideo_jax.preparation.clip_listing import Entry
from magicvideo_jax.preparation.record_writing import RecordFormat
from magicvideo_jax.runtime.compilation import enable_compilation_cache


def frame_format() -> RecordFormat:
    """Records that keep frames, as PNG files."""

    def fields_of(clips: np.ndarray, entries: Sequence[Entry]) -> list[dict[str, Any]]:
        return [{"frames": to_png(clip)} for clip in clips]

    return RecordFormat(fields_of, frame_features(), {"latents": None})


def latent_format(
    vae: str, text: str | None, *, frames: int, sizes: Sequence[FrameSize], batch_size: int
) -> RecordFormat:
    """Records that keep the latents of `vae`, and the caption states of `text` where it is given.

    Errors: `UserError` for weights without these networks, and sizes that the VAE cannot encode.
    """
    # Imported here: records of frames need no JAX.
    from magicvideo_jax.preparation.latent_encoder import open_latent_encoder
    from magicvideo_jax.preparation.text_encoder import open_caption_encoder

    enable_compilation_cache()
    encoder = open_latent_encoder(vae, argument="--vae")
    factor = encoder.identity["factor"]
    for height, width in sizes:
        if height % factor or width % factor:
            raise UserError(
                f"--size={width}x{height}: give multiples of {factor}, the VAE's factor"
            )
    shape = encoder.shape(frames, *sizes[0])
    shape = shape if len(sizes) == 1 else (shape[0], None, None, shape[3])
    encode = encoder.batches(batch_size)
    caption_encoder = None if text is None else open_caption_encoder(text, argument="--text")

    def fields_of(clips: np.ndarray, entries: Sequence[Entry]) -> list[dict[str, Any]]:
        fields: list[dict[str, Any]] = [{"latents": latents} for latents in encode(clips)]
        if caption_encoder is not None:
            for content, entry in zip(fields, entries, strict=True):
                content["text_states"] = caption_encoder(entry.captions)
        return fields

    if caption_encoder is None:
        return RecordFormat(fields_of, latent_features(shape), {"latents": encoder.identity})
    identities = {"latents": encoder.identity, "text": caption_encoder.identity}
    return RecordFormat(fields_of, latent_features(shape, caption_encoder.shape), identities)
