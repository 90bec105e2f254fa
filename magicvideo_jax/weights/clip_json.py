"""config.json of CLIP's encoders with their projections, as transformers writes it <-> our
configurations.

The file of a whole CLIP has the fields of both encoders inside, and one width of embeddings.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from magicvideo_jax.models.clip_layer import Activation
from magicvideo_jax.models.clip_text import TextEmbedderConfig
from magicvideo_jax.models.clip_vision import VisionConfig
from magicvideo_jax.weights.config_json import Json, is_whole_clip, text_config, text_json
from magicvideo_jax.weights.json_fields import Fields

_PROJECTION = {"projection_dim": 512}
_VISION = _PROJECTION | {
    "image_size": 224,
    "patch_size": 32,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
}
_VISION_ONLY = {"num_channels": (3,), "layer_norm_eps": (1e-5,)}


def vision_config(content: Json, *, where: str) -> VisionConfig:
    """CLIPVisionModelWithProjection."""
    if is_whole_clip(content):
        inside = content.get("vision_config")
        encoder = inside if isinstance(inside, Mapping) else {}
        content = {**encoder, **{name: content[name] for name in _PROJECTION if name in content}}
    fields = Fields(
        content, _VISION | {field: values[0] for field, values in _VISION_ONLY.items()}, where=where
    )
    fields.only(_VISION_ONLY)
    size, patch = fields.integer("image_size"), fields.integer("patch_size")
    width, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    if size % patch:
        raise fields.refused("patch_size", f"a number that divides {size}")
    if width % heads:
        raise fields.refused("num_attention_heads", f"a number that divides {width}")
    return VisionConfig(
        size=size,
        patch=patch,
        width=width,
        layers=fields.integer("num_hidden_layers"),
        heads=heads,
        hidden=fields.integer("intermediate_size"),
        embedding=fields.integer("projection_dim"),
        activation=fields.word("hidden_act", Activation),
    )


def vision_json(config: VisionConfig) -> dict[str, Any]:
    """The inverse of `vision_config`."""
    return {
        "architectures": ["CLIPVisionModelWithProjection"],
        "model_type": "clip_vision_model",
        "image_size": config.size,
        "patch_size": config.patch,
        "hidden_size": config.width,
        "intermediate_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "projection_dim": config.embedding,
        "hidden_act": config.activation.value,
        "num_channels": 3,
        "layer_norm_eps": 1e-5,
        "dtype": "float32",
    }


def text_embedder_config(content: Json, *, where: str) -> TextEmbedderConfig:
    """CLIPTextModelWithProjection."""
    embedding = Fields(content, _PROJECTION, where=where).integer("projection_dim")
    return TextEmbedderConfig(**asdict(text_config(content, where=where)), embedding=embedding)


def text_embedder_json(config: TextEmbedderConfig) -> dict[str, Any]:
    """The inverse of `text_embedder_config`."""
    return text_json(config) | {
        "architectures": ["CLIPTextModelWithProjection"],
        "projection_dim": config.embedding,
    }
