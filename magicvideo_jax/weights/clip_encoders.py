"""CLIP's encoders as files, for images and for texts, each with its projection.

They come as a folder of transformers with one encoder or a whole CLIP, or as one file in the keys of
OpenAI and OpenCLIP, which holds both and no configuration.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from magicvideo_jax.core.checks import named
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.models.bind import bind
from magicvideo_jax.models.clip_layer import Activation
from magicvideo_jax.models.clip_text import CLIPTextEmbedder, TextEmbedderConfig
from magicvideo_jax.models.clip_vision import CLIPVisionEncoder, VisionConfig
from magicvideo_jax.models.image_prompt import TO_TEXT, ImagePrompt, ImagePromptConfig
from magicvideo_jax.weights import clip_json
from magicvideo_jax.weights.components import ComponentSpec, ComponentWeights
from magicvideo_jax.weights.deduction import (
    TensorShapes,
    text_embedder_of_shapes,
    vision_of_shapes,
)
from magicvideo_jax.weights.folders import CONFIG, open_torch_part
from magicvideo_jax.weights.locate import locate
from magicvideo_jax.weights.param_sources import TensorParams
from magicvideo_jax.weights.tables import clip_keys
from magicvideo_jax.weights.tables.known_extras import name_of_kind
from magicvideo_jax.weights.tables.openclip_keys import (
    OPENCLIP_EXTRAS,
    OTHER_TOWERS,
    as_linear_layers,
    openclip_key,
)
from magicvideo_jax.weights.tensor_files import (
    SAFETENSORS,
    has_tensors,
    open_tensors,
    read_json,
)
from magicvideo_jax.weights.tensors import Tensors

VISION = ComponentSpec[VisionConfig](
    folder="image_encoder",
    words="CLIP image encoder",
    library=("transformers", "CLIPVisionModelWithProjection"),
    table=clip_keys.VISION_TABLE,
    stem="model",
    older="pytorch_model",
    read=clip_json.vision_config,
    write=clip_json.vision_json,
    network=cache(lambda config: bind(lambda keys: CLIPVisionEncoder(config, keys=keys))),
    extras=clip_keys.VISION_EXTRAS,
)
IMAGE_PROMPT: ComponentSpec[Any] = replace(
    VISION, network=cache(lambda config: bind(lambda keys: ImagePrompt(config, keys=keys)))
)
"""CLIP's image encoder with the map to text states; its weights are those of `VISION` where they lack `TO_TEXT`."""
TEXT_EMBEDDER = ComponentSpec[TextEmbedderConfig](
    folder="text_encoder",
    words="CLIP text encoder with its projection",
    library=("transformers", "CLIPTextModelWithProjection"),
    table=clip_keys.TEXT_EMBEDDER_TABLE,
    stem="model",
    older="pytorch_model",
    read=clip_json.text_embedder_config,
    write=clip_json.text_embedder_json,
    network=cache(lambda config: bind(lambda keys: CLIPTextEmbedder(config, keys=keys))),
    aliases=clip_keys.TEXT_ALIASES,
    extras=clip_keys.TEXT_EMBEDDER_EXTRAS,
)
Encoder = TypeVar("Encoder", VisionConfig, TextEmbedderConfig)
Opened = tuple[ComponentWeights[Encoder], tuple[str, ...]]
"""An encoder whose parameters wait, and notes."""

OPENCLIP_CONFIG = "open_clip_config.json"


def open_vision(path: str | Path, *, argument: str) -> Opened[VisionConfig]:
    """Open CLIP's image encoder: keys and shapes are checked, no parameter is read.

    `path` is a file or folder, or a name on the Hugging Face Hub. Errors: `UserError` naming `argument`, or the file
    and what is wrong with it.
    """
    return _open(VISION, vision_of_shapes, r"visual\..*", path, argument)


def open_image_prompt(
    path: str | Path, *, text_width: int, argument: str
) -> ComponentWeights[ImagePromptConfig]:
    """Open CLIP's image encoder for a model with text states of such a width. Errors: as for `open_vision`."""
    part, _ = open_vision(path, argument=argument)
    config = ImagePromptConfig(**asdict(part.config), text_width=text_width)
    return ComponentWeights(IMAGE_PROMPT, config, part.json, part.source, lacks=(TO_TEXT,))


def open_text_embedder(path: str | Path, *, argument: str) -> Opened[TextEmbedderConfig]:
    """Open CLIP's text encoder with its projection, as `open_vision` does the image encoder."""
    return _open(TEXT_EMBEDDER, text_embedder_of_shapes, r"(?!visual\.).*", path, argument)


def _open(
    kind: ComponentSpec[Encoder],
    deduce: Callable[[TensorShapes, Activation], Encoder],
    keys: str,
    path: str | Path,
    argument: str,
) -> Opened[Encoder]:
    place = locate(path, argument=argument)
    if (place / kind.folder / CONFIG).is_file():  # a pipeline's
        place = place / kind.folder
    if (place / CONFIG).is_file():
        part, notes = open_torch_part(kind, place)
    else:
        file = _openclip_file(place, f"{argument}={path}")
        tensors = as_linear_layers(open_tensors(file))
        activation, notes = _activation(file, tensors)
        kept = {
            key: tensor
            for key, tensor in tensors.items()
            if re.fullmatch(keys, key) and not re.fullmatch(OPENCLIP_EXTRAS, key)
        }
        with named(f"{file}: "):
            config = deduce(TensorShapes(kept, where=str(file), what="CLIP"), activation)
        source = TensorParams(kind.table, kept, str(file), openclip_key)
        part = ComponentWeights(kind, config, kind.write(config), source)
    part.check()
    return part, notes


def _openclip_file(place: Path, name: str) -> Path:
    """The file in OpenCLIP's keys that a path is, or that is in a folder. Errors: `UserError` that
    begins with `name`."""
    files = [place] if place.is_file() else sorted(filter(has_tensors, place.glob("*")))
    # Of two that differ in their ending, the safetensors.
    files = sorted(files, key=lambda file: file.suffix != SAFETENSORS)
    for file in files[:1]:
        keys = open_tensors(file)
        if other := name_of_kind(keys, OTHER_TOWERS):
            raise UserError(f"{file}: its image encoder is {other}: give a CLIP with a ViT")
        if any(key.startswith("visual.") for key in keys):
            return file
        if (file.parent / CONFIG).is_file():
            raise UserError(f"{file}: give its folder, {file.parent}, which has its {CONFIG}")
    raise UserError(
        f"{name}: no CLIP: give a folder of transformers with {CONFIG} and weights, or a file with "
        "keys visual.* (OpenAI, OpenCLIP)"
    )


def _activation(file: Path, tensors: Tensors) -> tuple[Activation, tuple[str, ...]]:
    """The activation of a CLIP in one file, and a note where it is an assumption."""
    if "input_resolution" in tensors:  # OpenAI's own
        return Activation.QUICK_GELU, ()
    beside = file.with_name(OPENCLIP_CONFIG)
    if beside.is_file():
        model = read_json(beside).get("model_cfg")
        is_quick = isinstance(model, Mapping) and model.get("quick_gelu") is True
        return (Activation.QUICK_GELU if is_quick else Activation.GELU), ()
    note = f"{file} does not say its activation: GELU is assumed, as OpenCLIP trains with"
    return Activation.GELU, (note,)
