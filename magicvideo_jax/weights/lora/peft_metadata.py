"""Scales of a LoRA in PEFT's form, which stand beside its tensors: in the header of a safetensors
file (as diffusers writes it) or in `adapter_config.json`."""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.weights.tensor_files import read_json, safetensors_metadata

_LARGEST = 2.0**31
_METADATA = "lora_adapter_metadata"
ADAPTER_CONFIG = "adapter_config.json"
"""File beside a LoRA that tells its scales."""


@dataclass(frozen=True)
class AdapterSettings:
    """What PEFT's configuration says of one network's LoRA."""

    alpha: float | None = None
    """Alpha of layers that `alphas` does not name; None: their rank."""
    alphas: Mapping[str, float] = field(default_factory=dict)
    """Alpha by the last words of a layer's name."""
    rank_stabilized: bool = False
    """Whether alpha is divided by the root of the rank (rsLoRA, 2312.03732)."""

    def scale(self, layer: str, rank: int) -> float:
        """Factor of `up @ down` for a layer by diffusers' name."""
        named = [alpha for name, alpha in self.alphas.items() if _names(name, layer)]
        alpha = named[0] if named else self.alpha
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(rank) if self.rank_stabilized else rank)

    def check(self, layers: Collection[str], where: str) -> None:
        """Check that each of `alphas` names a layer: PEFT also takes patterns, which are not read.

        Errors: `UserError` naming `where` and the pattern.
        """
        for name in self.alphas:
            if not any(_names(name, layer) for layer in layers):
                raise UserError(
                    f"{where}: alpha_pattern {name!r} names none of its layers: save the LoRA with "
                    "whole names of layers, or in kohya's form"
                )


def adapter_settings(file: Path, network: str) -> AdapterSettings:
    """PEFT's settings for a network of a LoRA file; the defaults where it has none.

    Errors: `UserError` naming the file for settings that cannot be read, and for DoRA.
    """
    where, plain = _settings(file)
    own = {
        key.removeprefix(f"{network}."): value
        for key, value in plain.items()
        if "." not in key or key.startswith(f"{network}.")
    }
    if own.get("use_dora"):
        raise UserError(f"{where}: says use_dora; DoRA is not supported: give a LoRA without it")
    patterns = own.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise UserError(f"{where}: alpha_pattern={patterns!r}: expected names and numbers")
    alpha = own.get("lora_alpha")
    return AdapterSettings(
        None if alpha is None else _number(alpha, where),
        {str(name): _number(value, where) for name, value in patterns.items()},
        rank_stabilized=bool(own.get("use_rslora")),
    )


def _settings(file: Path) -> tuple[str, dict[str, Any]]:
    """Where the settings of a file are, and what they say."""
    beside = file.parent / ADAPTER_CONFIG
    if file.stem == "adapter_model" and beside.is_file():
        return str(beside), read_json(beside)
    where = f"{file}: {_METADATA}"
    try:
        plain = json.loads(safetensors_metadata(file).get(_METADATA, "{}"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON ({error}): save the LoRA again") from error
    if not isinstance(plain, dict):
        raise UserError(f"{where} is {type(plain).__name__}, not fields: save the LoRA again")
    return where, plain


def _number(value: Any, where: str) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not abs(value) < _LARGEST:  # NaN is not less, either
        raise UserError(f"{where}: alpha is {value!r:.40}, not a number: save the LoRA again")
    return float(value)


def _names(words: str, layer: str) -> bool:
    return layer == words or layer.endswith(f".{words}")
