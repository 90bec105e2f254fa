"""Names of LoRA's factors in the files of other programs.

A form joins a prefix for the network, a layer as the form spells it and an ending for each factor:
`lora_unet_`, `mid_block_attentions_0_proj_in`, `.lora_down.weight`. Names are made from our key
tables and looked up, never parsed: an underscore of kohya's stands for a dot or belongs to a word.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from magicvideo_jax.weights.tables.compvis_keys import UNetNumbering, unet_key
from magicvideo_jax.weights.tables.motion_keys import MODULES, ORIGINAL_KEYS
from magicvideo_jax.weights.tables.naming import Aliases, renamed

_UNET, _TEXT = "unet", "text_encoder"


class FactorNames(NamedTuple):
    """Keys of one layer's update `alpha / rank * up @ down`."""

    down: str
    up: str
    alpha: str


@dataclass(frozen=True)
class LoRAForm:
    """One way to name the layers of a network and their factors."""

    name: str
    prefixes: Mapping[str, tuple[str, ...]]
    """Prefixes for each network, by its folder in diffusers' layout."""
    spell: Callable[[str], str | None]
    """Turns diffusers' name of a layer into that of this form; None: it has no name here."""
    endings: tuple[tuple[str, str], ...]
    """Endings of `down` and `up`."""

    def names(self, network: str, layer: str) -> Iterator[FactorNames]:
        """Every name of a layer's factors; the first is the one to write."""
        spelt = self.spell(layer)
        if spelt is None:
            return
        for prefix in self.prefixes.get(network, ()):
            for down, up in self.endings:
                stem = f"{prefix}{spelt}"
                yield FactorNames(f"{stem}{down}", f"{stem}{up}", f"{stem}.alpha")


_KOHYA_PREFIXES = {_UNET: ("lora_unet_",), _TEXT: ("lora_te_",)}
_PREFIXES = {_UNET: ("unet.", "", "base_model.model."), _TEXT: ("text_encoder.",)}
_KOHYA_ENDINGS = ((".lora_down.weight", ".lora_up.weight"),)
_ENDINGS = (
    (".lora_A.weight", ".lora_B.weight"),
    (".lora_A.default.weight", ".lora_B.default.weight"),
    (".lora.down.weight", ".lora.up.weight"),
    (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
    (".lora_down.weight", ".lora_up.weight"),
)
_PROCESSOR_ENDINGS = (("_lora.down.weight", "_lora.up.weight"),)

# Until 0.20 diffusers kept LoRA in an attention's processor, without the number of to_out.0.
_PROCESSORS: Aliases = (
    (r"(.*\.(?:attn\w*|attention_blocks\.\d+))\.to_([qkv])", r"\1.processor.to_\2"),
    (r"(.*\.(?:attn\w*|attention_blocks\.\d+))\.to_out\.0", r"\1.processor.to_out"),
    (r"(.*\.self_attn)\.([qkv])_proj", r"\1.to_\2"),
    (r"(.*\.self_attn)\.out_proj", r"\1.to_out"),
)
# Trainers of others put a processor in front of the last word of any layer.
_ANY_PROCESSOR: Aliases = ((r"(.*)\.([^.]+)", r"\1.processor.\2"),)
_IN_COMPVIS = re.compile(
    r"(time_embedding\.|conv_(in|out)$|(.*\.)?(resnets|attentions|downsamplers|upsamplers)\.\d).*"
)


def _renamed_by(rules: Aliases) -> Callable[[str], str | None]:
    """Spelling by rules; a layer that they leave has no name."""

    def spell(layer: str) -> str | None:
        spelt = renamed(layer, rules)
        return None if spelt == layer else spelt

    return spell


def _of_animatediff(spell: Callable[[str], str | None]) -> Callable[[str], str | None]:
    """The same spelling of AnimateDiff's own names for motion modules."""
    return lambda layer: spell(ORIGINAL_KEYS.key_of(layer) if MODULES in layer else layer)


def _flat(layer: str) -> str:
    return layer.replace(".", "_")


KOHYA = LoRAForm("kohya's", _KOHYA_PREFIXES, _flat, _KOHYA_ENDINGS)
DIFFUSERS = LoRAForm("diffusers'", _PREFIXES, str, _ENDINGS)
ANIMATEDIFF = LoRAForm(
    "AnimateDiff's", {_UNET: ("",)}, _of_animatediff(_renamed_by(_PROCESSORS)), _PROCESSOR_ENDINGS
)
"""MotionLoRA, and the domain adapter on the layers of the image model."""

_FORMS = (
    KOHYA,
    DIFFUSERS,
    ANIMATEDIFF,
    LoRAForm(
        "transformers 5's",
        {_TEXT: _PREFIXES[_TEXT]},
        lambda layer: layer.removeprefix("text_model."),
        _ENDINGS,
    ),
    LoRAForm("diffusers' until 0.20", _PREFIXES, _renamed_by(_PROCESSORS), _PROCESSOR_ENDINGS),
    LoRAForm("trainers'", _PREFIXES, _renamed_by(_ANY_PROCESSOR), _PROCESSOR_ENDINGS),
    LoRAForm(
        "AnimateDiff's trainers'",
        {_UNET: ("",)},
        _of_animatediff(_renamed_by(_ANY_PROCESSOR)),
        _PROCESSOR_ENDINGS,
    ),
)


def forms_for(numbering: UNetNumbering) -> tuple[LoRAForm, ...]:
    """All forms; `numbering` is that of the U-Net, for names that count blocks as CompVis does."""

    def compvis(layer: str) -> str | None:
        if not _IN_COMPVIS.fullmatch(layer):
            return None
        return _flat(unet_key(f"{layer}.weight", numbering).removesuffix(".weight"))

    form = LoRAForm("CompVis's", {_UNET: _KOHYA_PREFIXES[_UNET]}, compvis, _KOHYA_ENDINGS)
    return (*_FORMS, form)


MOTION_MODULES = "motion modules of AnimateDiff, which are no LoRA (--motion or config.motion_from)"
REFUSED_LORAS = (
    (r".*\.lora_mid\.weight", "a Tucker decomposition (LoCon with use_tucker)"),
    (r".*\.hada_\w+", "LoHa"),
    (r".*\.lokr_\w+", "LoKr"),
    (r".*\.(dora_scale|lora_magnitude_vector.*)", "DoRA"),
    (r".*\.oft_\w+", "OFT"),
    (r".*\.diff(_b)?", "whole differences of weights"),
    (r".*\.lora_embedding_[AB].*", "a LoRA of embeddings"),
    (
        r"(.*\.)?motion_modules\.\d+\.(temporal_transformer\.)?proj_in\.weight",
        MOTION_MODULES,
    ),
    (
        r"(transformer\.|lora_transformer_).*|(.*[._])?(double_blocks|joint_blocks)[._].*",
        "a LoRA for FLUX or Stable Diffusion 3",
    ),
    (
        r"lora_te[12]_.*|text_encoder_2\..*|.*transformer_blocks[._][1-9].*",
        "a LoRA for Stable Diffusion XL",
    ),
)
"""Keys of adapters that are no sum of `up @ down` over layers of Stable Diffusion 1.x or 2.x."""

ABSENT_LAYERS = (
    (
        r".*mid_block[._]motion_modules.*",
        "a motion module in the mid block, which AnimateDiff v2 alone has: give it v2's motion "
        "modules, or a LoRA made for these",
    ),
    (
        r".*motion_modules.*",
        "AnimateDiff's motion modules, which the model does not have: give them with the LoRA",
    ),
    (r"(lora_te_|text_encoder\.).*", "layers that the model's text encoder does not have"),
)
"""Layers that a model may lack, and what to do about it."""
