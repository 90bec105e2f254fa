"""Prepared sets, opened for a model: whether they hold what it needs is known before anything long begins."""

import json
from collections.abc import Sequence

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.types import Params
from magicvideo_jax.data.loader import Source
from magicvideo_jax.data.record_examples import frame_count, pixels_of
from magicvideo_jax.data.records import Records, by_size, open_records, settings_file
from magicvideo_jax.experiment.config import Component, Experiment, SourceConfig
from magicvideo_jax.weights.fingerprint import (
    Fingerprint,
    fingerprint_difference,
    is_same_text_encoder,
    text_fingerprint,
    vae_fingerprint,
)


def open_dataset(
    source: SourceConfig, experiment: Experiment, vae: Params | None, *, frames: int, argument: str
) -> Sequence[Source]:
    """Records by index, those of each size by themselves. With `vae`, the parameters of the model's, latents are asked
    whose they are.

    Errors: `UserError` naming `argument` and the path: no set, no such split, none in it, too few frames, another size,
    latents where pixels are wanted, latents of another VAE.
    """
    records, named = open_clips(source, frames, argument=argument), f"{argument}: {source.path}"
    record, sizes = records[0], by_size(records, source.path, source.split, argument=argument)
    if "latents" not in record:
        height, width = pixels_of(record, slice(0, 1)).shape[1:3]
        if records in sizes:  # of one size by its making, and not by chance
            _check_size(named, (height, width), experiment.data.size)
        return sizes
    if Component.VAE in experiment.model.trained:
        raise UserError(
            f"{named} holds latents: a VAE learns from pixels: run prepare with --pixels"
        )
    factor, channels = experiment.model.vae.factor, experiment.model.vae.latent_channels
    _, height, width, twice = record["latents"].shape
    if twice != 2 * channels:
        raise UserError(
            f"{named} has latents of {twice // 2} channels and the model of {channels}: prepare with its VAE"
        )
    if records in sizes:  # of one size by its making, and not by chance
        _check_size(named, (height * factor, width * factor), experiment.data.size)
    if vae is not None:
        _check_vae(named, source, experiment, vae)
    return sizes


def open_clips(source: SourceConfig, frames: int, *, argument: str) -> Records:
    """Records by index. Errors: `UserError` naming `argument` and the path: no set, no such split, none in it, clips of
    too few frames."""
    records = open_records(source.path, source.split, argument=argument)
    named = f"{argument}: {source.path}"
    if not len(records):
        raise UserError(f"{named}: split {source.split} is empty")
    count = frame_count(records[0])
    if count < frames:
        raise UserError(f"{named} has clips of {count} frames: give config.data.frames={count}")
    return records


def has_text_states(
    source: SourceConfig,
    records: Source,
    experiment: Experiment,
    text: Params | None,
    *,
    argument: str,
) -> bool:
    """Whether a set, of which these are some records, holds text states that stand for its captions: `text` are the
    parameters of the model's frozen text encoder, None where it is trained and must read for itself.

    Errors: `UserError` for states of another text encoder.
    """
    if text is None or "text_states" not in records[0]:
        return False
    there = _fingerprint_of(f"{argument}: {source.path}", source, "text")
    if there is not None and not is_same_text_encoder(
        there, text_fingerprint(text, experiment.model.text)
    ):
        raise UserError(
            f"{argument}: {source.path} has text states of another text encoder: prepare with --text of this model's "
            "weights, or without"
        )
    return True


def _check_size(named: str, there: tuple[int, int], size: int) -> None:
    if there != (size, size):
        raise UserError(
            f"{named} has clips of {there[1]} x {there[0]} pixels and config.data.size={size}: give the same"
        )


def _check_vae(named: str, source: SourceConfig, experiment: Experiment, vae: Params) -> None:
    there = _fingerprint_of(named, source, "latents")
    differs = (
        None
        if there is None
        else fingerprint_difference(there, vae_fingerprint(vae, experiment.model.vae))
    )
    if differs is not None:
        raise UserError(
            f"{named} has latents of another VAE ({differs}): prepare with --vae of this model's weights"
        )


def _fingerprint_of(named: str, source: SourceConfig, what: str) -> Fingerprint | None:
    """Of which network a set has latents or text states; sets of other people do not say."""
    settings = settings_file(source.path, argument=named)
    if not settings.exists():
        return None
    try:
        return dict(json.loads(settings.read_text())[what])
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{named}: {settings} cannot be read ({error!r}): prepare anew") from error
