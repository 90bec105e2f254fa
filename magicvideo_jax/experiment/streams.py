"""From the sources that a config names to examples without end, for the stage that is trained."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.types import Params
from magicvideo_jax.data.drawn.shape_clips import DrawnClip, ShapeClips, ShapeImages, vocabulary
from magicvideo_jax.data.loader import Example, Source, Stream, beside, by_batches, mixture, stream
from magicvideo_jax.data.record_examples import FromRecord, captions_of
from magicvideo_jax.data.records import open_records
from magicvideo_jax.data.tokenizer import Tokenize
from magicvideo_jax.experiment.config import DRAWN, Component, Experiment, SourceConfig
from magicvideo_jax.experiment.encoded import precompute_latents
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.recorded import has_text_states, open_dataset

Shapes = tuple[tuple[str, tuple[int, ...]], ...]
"""Of an example, by name."""

_SURVEYED = 20_000
"""Records whose words are counted."""


def training_stream(
    experiment: Experiment, networks: Networks, tokenizer: Tokenize | None, frozen: Params
) -> Stream:
    """Examples for the stage; of joint training `{"video": example, "image": example}`.

    Errors: `UserError` for sources that are not there, or do not fit the model.
    """
    data = experiment.data
    main = _mixed("sources", frames_of(experiment), experiment, networks, tokenizer, frozen)
    if not data.joint_images:
        return main
    return beside(
        video=main, image=_mixed("image_sources", 1, experiment, networks, tokenizer, frozen)
    )


def words(experiment: Experiment) -> set[str]:
    """What the captions of its sources consist of; of long sets, those of the first records."""
    found: set[str] = set()
    for source in experiment.data.sources:
        if source.path == DRAWN:
            found.update(vocabulary())
            continue
        records = open_records(source.path, source.split, argument="config.data.sources")
        for i in range(min(len(records), _SURVEYED)):
            found.update(" ".join(captions_of(records[i])).split())
    return found


def frames_of(experiment: Experiment) -> int:
    """Frames that the stage's clips have."""
    return experiment.data.frames if experiment.stage.has_clips else 1


def example(drawn: DrawnClip, _: Any = None, *, tokenizer: Tokenize | None) -> Example:
    """What a stage learns from a drawn clip: a VAE from pixels alone, the others from ids too."""
    pixels: dict[str, np.ndarray] = {"pixels": drawn.pixels}
    if tokenizer is None:
        return pixels
    return pixels | {"ids": tokenizer([drawn.caption])[0], "fps": np.float32(drawn.fps)}


def drawn_source(experiment: Experiment, frames: int) -> Source:
    """Drawn clips, or of one frame pictures."""
    data, seed = experiment.data, experiment.seed
    if frames == 1:
        return ShapeImages(seed, size=data.size)
    return ShapeClips(
        seed, frames=frames, size=data.size, uncaptioned_fraction=data.uncaptioned_fraction
    )


def _mixed(
    field: str,
    frames: int,
    experiment: Experiment,
    networks: Networks,
    tokenizer: Tokenize | None,
    frozen: Params,
) -> Stream:
    """The sources of one field of `config.data`, by their weights."""
    seed, sources = experiment.seed, getattr(experiment.data, field)

    argument = f"config.data.{field}"
    vae, text = (frozen.get(component.value) for component in (Component.VAE, Component.TEXT))
    opened = [
        None
        if source.path == DRAWN
        else open_dataset(source, experiment, vae, frames=frames, argument=argument)
        for source in sources
    ]
    reads_text = all(
        sizes is not None and has_text_states(source, sizes[0], experiment, text, argument=argument)
        for source, sizes in zip(sources, opened, strict=True)
    )
    prepare = FromRecord(frames, experiment.model.vae.scaling, tokenizer, reads_text)

    def weighed(source: SourceConfig, sizes: Sequence[Source] | None) -> list[tuple[Stream, float]]:
        if sizes is None:
            return [(_drawn(frames, experiment, networks, tokenizer, frozen), source.weight)]
        number = sum(len(records) for records in sizes)
        return [
            (stream(records, prepare=prepare, seed=seed), source.weight * len(records) / number)
            for records in sizes
        ]

    by_shape: dict[Shapes, list[tuple[Stream, float]]] = {}
    for source, sizes in zip(sources, opened, strict=True):
        for examples, weight in weighed(source, sizes):
            by_shape.setdefault(_shapes(examples[0]), []).append((examples, weight))
    if len({tuple(name for name, _ in shapes) for shapes in by_shape}) > 1:
        raise UserError(f"{argument} mixes pixels and latents: prepare all its sources alike")
    return by_batches(
        [mixture(*zip(*alike, strict=True)) for alike in by_shape.values()],
        [sum(weight for _, weight in alike) for alike in by_shape.values()],
        batch_size=experiment.train.batch_size,
    )


def _shapes(one: Example | None) -> Shapes:
    return tuple((name, np.shape(array)) for name, array in sorted((one or {}).items()))


def _drawn(
    frames: int,
    experiment: Experiment,
    networks: Networks,
    tokenizer: Tokenize | None,
    frozen: Params,
) -> Stream:
    data, seed, prepare = experiment.data, experiment.seed, partial(example, tokenizer=tokenizer)
    source = drawn_source(experiment, frames)
    if not data.precompute_examples:
        return stream(source, prepare=prepare, seed=seed)
    kept = precompute_latents(
        source,
        data.precompute_examples,
        prepare=prepare,
        networks=networks,
        params=frozen,
        seed=seed,
    )
    return stream(kept, prepare=_as_it_is, seed=seed)


def _as_it_is(kept: Example, _: Any) -> Example:
    return kept
