"""An endless stream of training examples from the data sets that a config names."""

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.keys import key_for
from magicvideo_jax.core.pixels import to_float
from magicvideo_jax.core.types import Params
from magicvideo_jax.data.drawn.shape_clips import DrawnClip, ShapeClips, ShapeImages, vocabulary
from magicvideo_jax.data.loader import (
    Example,
    Source,
    Stream,
    by_batches,
    mixture,
    stream,
    zipped,
)
from magicvideo_jax.data.record_examples import FromRecord, captions_of, frame_count, pixels_of
from magicvideo_jax.data.records import Records, by_size, open_records, settings_file
from magicvideo_jax.data.tokenizer import Tokenize
from magicvideo_jax.experiment.config import DRAWN, Component, Experiment, SourceConfig
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.parallel.batch import fetch_to_host
from magicvideo_jax.runtime.compilation import jit
from magicvideo_jax.runtime.progress import Progress
from magicvideo_jax.weights.fingerprint import (
    Fingerprint,
    fingerprint_difference,
    is_same_text_encoder,
    text_fingerprint,
    vae_fingerprint,
)

CLIPS, IMAGES = "sources", "image_sources"
"""Fields of `config.data`: the main data sets, and those of the images in joint training."""

_SURVEYED = 20_000
"""Records whose words are counted for a vocabulary."""
_ENCODED_AT_ONCE = 32

ExampleShapes = tuple[tuple[str, tuple[int, ...]], ...]
"""Shape of every array of an example, by name."""


Precompute = Callable[[Params, jax.Array, PRNGKeyArray], Mapping[str, jax.Array]]
"""`precompute(params, pixels, key)` gives arrays that take the place of uint8 pixels (b t h w 3)."""


@dataclass(frozen=True)
class StreamInputs:
    """What examples depend on beside the data sets themselves."""

    experiment: Experiment
    networks: Networks
    tokenizer: Tokenize | None
    """None for stages that learn from pixels alone."""
    frozen: Params
    """Parameters of the frozen networks, which may have precomputed latents and text states."""
    precompute: Precompute | None = None
    """What precomputed examples hold; None: latents of the VAE."""


def training_stream(inputs: StreamInputs, frames: int) -> Stream:
    """Examples of `frames` frames; in joint training `{"video": example, "image": example}`.

    Errors: `UserError` for data sets that are missing or do not fit the model.
    """
    clips = _mixed(CLIPS, frames, inputs)
    if not inputs.experiment.data.joint_images:
        return clips
    return zipped(video=clips, image=_mixed(IMAGES, 1, inputs))


def caption_words(experiment: Experiment) -> set[str]:
    """The words of all captions; for large sets, of the first records."""
    words: set[str] = set()
    for source in experiment.data.sources:
        if source.path == DRAWN:
            words.update(vocabulary())
            continue
        records = open_records(source.path, source.split, argument="config.data.sources")
        for i in range(min(len(records), _SURVEYED)):
            words.update(" ".join(captions_of(records[i])).split())
    return words


def example(
    drawn: DrawnClip, _: Any = None, *, tokenizer: Tokenize | None, tells_late: bool = False
) -> Example:
    """A drawn clip as an example: `pixels`, with a tokenizer `ids` and `fps`, and where it `tells_late`, `is_late`."""
    one: Example = {"pixels": drawn.pixels}
    if tokenizer is not None:
        one |= {"ids": tokenizer([drawn.caption])[0], "fps": np.float32(drawn.fps)}
    return one | {"is_late": np.bool_(drawn.is_late)} if tells_late else one


def drawn_source(experiment: Experiment, frames: int, *, field: str = CLIPS) -> Source:
    """Drawn clips, or images for one frame. Each field of `config.data` has its own scenes."""
    data, seed = experiment.data, _seed_of(experiment, field)
    if frames == 1:
        return ShapeImages(seed, size=data.size)
    return ShapeClips(
        seed,
        frames=frames,
        size=data.size,
        fps=data.fps,
        motion_captions=data.motion_captions,
        rate_ratio=data.frame_rate_ratio,
        uncaptioned_fraction=data.uncaptioned_fraction,
        late_fraction=data.late_fraction,
        motions=data.motions,
    )


def learns_from_pixels(experiment: Experiment) -> bool:
    """Whether latents of a frozen VAE are of no use to an experiment."""
    return Component.VAE in experiment.model.trained or experiment.model.latent_flow is not None


def open_dataset(
    source: SourceConfig, experiment: Experiment, vae: Params | None, *, frames: int, argument: str
) -> Sequence[Source]:
    """A prepared set as records by index, one source for each clip size.

    With `vae`, the model's VAE parameters, the fingerprint of stored latents is compared. Errors: `UserError` naming
    `argument` and the path: no set, no such split, an empty split, too few frames, another size, latents where pixels
    are wanted, latents of another VAE.
    """
    records, label = open_clips(source, frames, argument=argument), f"{argument}: {source.path}"
    record, sizes = records[0], by_size(records, source.path, source.split, argument=argument)
    if "latents" not in record:
        height, width = pixels_of(record, slice(0, 1)).shape[1:3]
        if records in sizes:  # a set of several sizes is not bound to `data.size`
            _check_size(label, (height, width), experiment.data.size)
        return sizes
    if learns_from_pixels(experiment):
        raise UserError(
            f"{label} holds latents, but stage={experiment.stage} learns from pixels: run prepare with "
            "--pixels"
        )
    factor, channels = experiment.model.vae.factor, experiment.model.vae.latent_channels
    _, height, width, moments = record["latents"].shape
    if moments != 2 * channels:
        raise UserError(
            f"{label} has latents of {moments // 2} channels, but the model's have {channels}: "
            "prepare with the model's VAE"
        )
    if records in sizes:
        _check_size(label, (height * factor, width * factor), experiment.data.size)
    if vae is not None:
        _check_latents(label, source, experiment, vae)
    return sizes


def open_clips(source: SourceConfig, frames: int, *, argument: str) -> Records:
    """A prepared set as records by index. Errors: `UserError` naming `argument` and the path: no set, no such split, an
    empty split, clips of too few frames."""
    records = open_records(source.path, source.split, argument=argument)
    label = f"{argument}: {source.path}"
    if not len(records):
        raise UserError(f"{label}: split {source.split} is empty")
    count = frame_count(records[0])
    if count < frames:
        raise UserError(f"{label} has clips of {count} frames: give config.data.frames={count}")
    return records


def _mixed(field: str, frames: int, inputs: StreamInputs) -> Stream:
    """The sets of one field of `config.data`, mixed by their weights."""
    experiment, argument = inputs.experiment, f"config.data.{field}"
    sources, seed = getattr(experiment.data, field), _seed_of(experiment, field)
    vae, text = (inputs.frozen.get(one.value) for one in (Component.VAE, Component.TEXT))

    opened = [
        None
        if source.path == DRAWN
        else open_dataset(source, experiment, vae, frames=frames, argument=argument)
        for source in sources
    ]
    # Text states replace token ids only if every set has them: a batch has one form.
    reads_text_states = all(
        sizes is not None and _has_text_states(source, sizes[0], experiment, text, argument)
        for source, sizes in zip(sources, opened, strict=True)
    )
    prepare = FromRecord(
        frames,
        experiment.model.vae.scaling,
        inputs.tokenizer,
        reads_text_states,
        experiment.data.frame_choice,
    )

    # Sources whose examples have one shape share batches.
    by_shape: dict[ExampleShapes, list[tuple[Stream, float]]] = {}
    for source, sizes in zip(sources, opened, strict=True):
        if sizes is None:
            streams = [(_drawn_stream(field, frames, inputs), source.weight)]
        else:
            total = sum(len(records) for records in sizes)
            streams = [
                (stream(records, prepare=prepare, seed=seed), source.weight * len(records) / total)
                for records in sizes
            ]
        for examples, weight in streams:
            by_shape.setdefault(_shapes(examples[0]), []).append((examples, weight))
    if len({tuple(name for name, _ in shapes) for shapes in by_shape}) > 1:
        raise UserError(f"{argument} mixes pixels and latents: prepare all its sets alike")
    return by_batches(
        [mixture(*zip(*alike, strict=True)) for alike in by_shape.values()],
        [sum(weight for _, weight in alike) for alike in by_shape.values()],
        batch_size=experiment.train.batch_size,
    )


def _drawn_stream(field: str, frames: int, inputs: StreamInputs) -> Stream:
    experiment, seed = inputs.experiment, _seed_of(inputs.experiment, field)
    tells_late = field == CLIPS and experiment.data.late_fraction > 0
    prepare = partial(example, tokenizer=inputs.tokenizer, tells_late=tells_late)
    source = drawn_source(experiment, frames, field=field)
    if not experiment.data.precompute_examples:
        return stream(source, prepare=prepare, seed=seed)
    return stream(
        _precompute_latents(source, prepare, field, inputs), prepare=_unchanged, seed=seed
    )


@dataclass(frozen=True, eq=False)
class PrecomputedLatents:
    """Examples in memory: arrays by name, or by part and name, with the example axis first."""

    arrays: Example
    number: int

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: int) -> Example:
        return jax.tree.map(lambda column: column[index], self.arrays)


def _precompute_latents(
    source: Source, prepare: Callable[[Any], Example], field: str, inputs: StreamInputs
) -> PrecomputedLatents:
    """The first `data.precompute_examples` examples with `latents` (a sample of q(z | x), float16), or what the
    stage says, for `pixels`.

    The VAE is frozen, so that latents need computing once; on two CPU cores drawing and encoding are two fifths of a
    step of the embedded models.
    """
    number, seed = inputs.experiment.data.precompute_examples, inputs.experiment.seed
    purpose = "encode" if field == CLIPS else f"encode {field}"

    def latents(params: Params, pixels: jax.Array, key: PRNGKeyArray) -> Mapping[str, jax.Array]:
        z = inputs.networks.encode(params, to_float(pixels), key)
        return {"latents": z.astype(jnp.float16)}

    encode = jit(inputs.precompute or latents)

    batches: list[Example] = []
    with Progress(number, "encode", unit="example") as progress:
        for first in range(0, number, _ENCODED_AT_ONCE):
            # The last batch is padded with its last example, so that there is one shape and one program.
            examples = [
                prepare(source[min(first + i, number - 1)]) for i in range(_ENCODED_AT_ONCE)
            ]
            batch = {name: np.stack([one[name] for one in examples]) for name in examples[0]}
            key = key_for(seed, first, purpose)
            # JAX encodes in the background while the next examples are drawn.
            encoded = encode(inputs.frozen, batch.pop("pixels"), key)
            batches.append({**batch, **encoded})
            progress.advance(min(_ENCODED_AT_ONCE, number - first))
    # Fetched at the end only, for the same reason.
    arrays = jax.tree.map(
        lambda *parts: np.concatenate([fetch_to_host(part) for part in parts])[:number], *batches
    )
    return PrecomputedLatents(arrays, number)


def _unchanged(precomputed: Example, _: Any) -> Example:
    return precomputed


def _seed_of(experiment: Experiment, field: str) -> int:
    """A seed for each field of `config.data`: with one for both, the image beside a clip would be a still of it."""
    if field == CLIPS:
        return experiment.seed
    return zlib.crc32(f"{experiment.seed} {field}".encode())


def _shapes(one: Example | None) -> ExampleShapes:
    return tuple((name, np.shape(array)) for name, array in sorted((one or {}).items()))


def _has_text_states(
    source: SourceConfig,
    records: Source,
    experiment: Experiment,
    text: Params | None,
    argument: str,
) -> bool:
    """Whether a set holds text states that replace its captions. `text` are the parameters of the frozen text encoder,
    None where it trains, since its states then change.

    Errors: `UserError` for states of another text encoder.
    """
    if text is None or "text_states" not in records[0]:
        return False
    stored = _fingerprint_of(f"{argument}: {source.path}", source, "text")
    if stored is not None and not is_same_text_encoder(
        stored, text_fingerprint(text, experiment.model.text)
    ):
        raise UserError(
            f"{argument}: {source.path} has text states of another text encoder: prepare with "
            "--text of this model's weights, or without"
        )
    return True


def _check_size(label: str, stored: tuple[int, int], size: int) -> None:
    if stored != (size, size):
        raise UserError(
            f"{label} has clips of {stored[1]} x {stored[0]} pixels, but config.data.size={size}: "
            "give the same"
        )


def _check_latents(label: str, source: SourceConfig, experiment: Experiment, vae: Params) -> None:
    stored = _fingerprint_of(label, source, "latents")
    if stored is None:
        return
    difference = fingerprint_difference(stored, vae_fingerprint(vae, experiment.model.vae))
    if difference is not None:
        raise UserError(
            f"{label} has latents of another VAE ({difference}): prepare with --vae of this "
            "model's weights"
        )


def _fingerprint_of(label: str, source: SourceConfig, network: str) -> Fingerprint | None:
    """The fingerprint of the encoder whose outputs a set holds; None for sets that other programs made."""
    settings = settings_file(source.path, argument=label)
    if not settings.exists():
        return None
    try:
        return dict(json.loads(settings.read_text())[network])
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{label}: {settings} cannot be read ({error!r}): prepare anew") from error
