"""Known extras: what checkpoints carry beside their networks, and keys of other kinds of models.

What is listed here is left out, with a note where it is a network of its own; a key that no list
knows is an error.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple


class KnownExtra(NamedTuple):
    """Keys that are no weights of ours."""

    pattern: str
    """Matches the whole key."""
    what: str = ""
    """Name of what they belong to, for a note; empty: buffers and counters, which nobody misses."""


SINGLE_FILE_EXTRAS = (
    # The noise schedule as buffers, counters, and what only the training of the text encoder used.
    KnownExtra(
        r"betas|alphas_cumprod(_prev)?|sqrt_\w+|log_one_minus_alphas_cumprod|posterior_\w+|logvar"
        r"|lvlb_weights|denoiser\.sigmas|scale_factor|model_ema\.(decay|num_updates)"
    ),
    KnownExtra(r"cond_stage_model\.(model\.)?(logit_scale|text_projection|attn_mask)"),
    KnownExtra(r"cond_stage_model\.transformer\.(text_model\.)?embeddings\.position_ids"),
    KnownExtra(r"v_pred|ztsnr"),  # flags, obeyed by `single_file.py`
    KnownExtra(r"(first_stage_model\.)?loss\..*", "a loss network"),
    KnownExtra(r"control_model\..*", "a ControlNet"),
    KnownExtra(r"embedding_manager\..*", "embeddings of textual inversion"),
    KnownExtra(
        r"cond_stage_model\.transformer\."
        r"((vision_model|visual_projection)\..*|logit_scale|text_projection(\.weight)?)",
        "the rest of a whole CLIP",
    ),
    KnownExtra(
        r"first_stage_model\.decoder\.(.*\.)?(time_stack\..*|time_mix_conv\..*|mix_factor)",
        "temporal layers of Stable Video Diffusion's decoder",
    ),
)

OTHER_MODELS = (
    (r"conditioner\.embedders\..*|(model\.diffusion_model\.)?label_emb\..*", "Stable Diffusion XL"),
    (r"(.*\.)?joint_blocks\..*", "Stable Diffusion 3"),
    (r"(.*\.)?double_blocks\..*", "FLUX"),
    (
        r"(.*\.)?attentions\..*\.processor\.\w+_lora\..*",
        "a LoRA, such as AnimateDiff's domain adapter, which is added to a model (--lora=FILE:SCALE)",
    ),
    (r"(.*\.)?temporal_attentions\..*", "temporal layers of HotShot-XL"),
    (
        r"lora_.*|.*\.lora_(A|B|up|down)\..*|.*\.processor\..*_lora\..*",
        "a LoRA, which is added to a model and is none (--lora=FILE:SCALE)",
    ),
    (r"(.*\.)?motion_modules\..*", "a motion module of AnimateDiff"),
    (r"control_model\..*|controlnet_.*", "a ControlNet"),
    (r"emb_params|string_to_param.*", "an embedding of textual inversion"),
)
"""Keys by which a file of another kind of model is known, and its name."""


def name_of_other_model(keys: Iterable[str]) -> str | None:
    """Name of the kind of model that some keys belong to, if it is one of `OTHER_MODELS`."""
    return name_of_kind(keys, OTHER_MODELS)


def name_of_kind(keys: Iterable[str], kinds: Iterable[tuple[str, str]]) -> str | None:
    """Name of the first kind, a pattern and a name, whose pattern matches a whole key."""
    keys = list(keys)
    for pattern, name in kinds:
        if any(re.fullmatch(pattern, key) for key in keys):
            return name
    return None
