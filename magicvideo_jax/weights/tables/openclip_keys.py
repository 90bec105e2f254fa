"""Keys of CLIP in the code of OpenAI and OpenCLIP, from those of transformers.

Query, key and value are one matrix there, and projections are matrices that embeddings are
multiplied with, (in, out), instead of linear layers, (out, in).
"""

import re

from magicvideo_jax.weights.tensors import Stored, Tensors, changed

_LAYER = r"encoder\.layers\.(\d+)"
_LAYER_ROWS = (
    (rf"{_LAYER}\.layer_norm([12])\.(.*)", r"transformer.resblocks.\1.ln_\2.\3"),
    (rf"{_LAYER}\.mlp\.fc1\.(.*)", r"transformer.resblocks.\1.mlp.c_fc.\2"),
    (rf"{_LAYER}\.mlp\.fc2\.(.*)", r"transformer.resblocks.\1.mlp.c_proj.\2"),
    (rf"{_LAYER}\.self_attn\.out_proj\.(.*)", r"transformer.resblocks.\1.attn.out_proj.\2"),
    (
        rf"{_LAYER}\.self_attn\.([qkv])_proj\.(.*)",
        r"transformer.resblocks.\1.attn.in_proj_\3[\2]",
    ),
)
_TEXT_ROWS = (
    (r"text_model\.embeddings\.token_embedding\.weight", "token_embedding.weight"),
    (r"text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"text_model\.final_layer_norm\.(.*)", r"ln_final.\1"),
    (r"text_projection\.weight", "text_projection"),
    *((rf"text_model\.{ours}", theirs) for ours, theirs in _LAYER_ROWS),
)
_VISION_ROWS = (
    (r"vision_model\.embeddings\.class_embedding", "visual.class_embedding"),
    (r"vision_model\.embeddings\.patch_embedding\.(.*)", r"visual.conv1.\1"),
    (r"vision_model\.embeddings\.position_embedding\.weight", "visual.positional_embedding"),
    (r"vision_model\.pre_layrnorm\.(.*)", r"visual.ln_pre.\1"),
    (r"vision_model\.post_layernorm\.(.*)", r"visual.ln_post.\1"),
    (r"visual_projection\.weight", "visual.proj"),
    *((rf"vision_model\.{ours}", f"visual.{theirs}") for ours, theirs in _LAYER_ROWS),
)
_PROJECTIONS = ("text_projection", "visual.proj")

OPENCLIP_EXTRAS = r"logit_scale|logit_bias|attn_mask|input_resolution|context_length|vocab_size"
"""Keys of numbers and buffers that are no weights of an encoder."""
OTHER_TOWERS = (
    (r"visual\.(layer1|attnpool)\..*", "a ResNet"),
    (r"visual\.trunk\..*", "an image encoder of timm"),
)
"""Keys of the image encoders of other CLIPs, which are no plain vision transformers."""


def openclip_key(key: str) -> str:
    """Turn transformers' key of a weight of CLIP into OpenCLIP's, with the names of
    `as_linear_layers`."""
    for pattern, theirs in (*_TEXT_ROWS, *_VISION_ROWS):
        found = re.fullmatch(pattern, key)
        if found:
            return found.expand(theirs)
    raise LookupError(f"no row of OpenCLIP's key table names {key}")


def as_linear_layers(tensors: Tensors) -> Tensors:
    """The same tensors with the weights of linear layers: thirds of the fused query, key and value
    (`...in_proj_weight[q]`), and transposed projections."""
    linear: dict[str, Stored] = {}
    for key, tensor in tensors.items():
        is_fused = re.search(r"\.in_proj_(weight|bias)$", key) is not None
        if is_fused and tensor.shape and tensor.shape[0] % 3 == 0:
            linear |= {f"{key}[{name}]": _third(tensor, i) for i, name in enumerate("qkv")}
        elif key in _PROJECTIONS:
            linear[key] = changed(tensor, tensor.shape[::-1], lambda x: x.T)
        else:
            linear[key] = tensor
    return linear


def _third(tensor: Stored, i: int) -> Stored:
    rows = tensor.shape[0] // 3
    return changed(tensor, (rows, *tensor.shape[1:]), lambda x: x[i * rows : (i + 1) * rows])
