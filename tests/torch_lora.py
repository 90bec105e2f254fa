"""LoRA files of random factors in the forms that people have, and the sum that torch makes of them."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from tiny_pipeline import states

from magicvideo_jax.weights.tables import compvis_keys as compvis

ATTENTION = r"attn[12]\.to_(q|k|v|out\.0)|self_attn\.(q|k|v|out)_proj"
TRANSFORMERS = rf"{ATTENTION}|ff\.net\.(0\.proj|2)|attentions\.\d\.proj_(in|out)|mlp\.fc[12]"
EVERY_LAYER = r".*"


class Factors(NamedTuple):
    """Factors of one layer in PyTorch's layout."""

    down: torch.Tensor
    up: torch.Tensor

    def added_to(self, weight: torch.Tensor, scale: float) -> torch.Tensor:
        """W + scale up @ down; a convolution by its sum over the rank."""
        if weight.ndim == 2:
            return weight + scale * self.up.flatten(1) @ self.down.flatten(1)
        return weight + scale * torch.einsum("or,rihw->oihw", self.up.flatten(1), self.down)


LoRA = dict[str, dict[str, Factors]]
"""Factors by network and diffusers' name of a layer."""


def random_lora(folder: Path, layers: str, *, rank: int, seed: int = 0, text: bool = True) -> LoRA:
    """Factors for the layers of a pipeline whose names end as the pattern says."""
    draw = torch.Generator().manual_seed(seed)
    lora: LoRA = {"unet": {}}
    for network, weights in states(folder).items():
        if network not in ("unet", "text_encoder")[: 1 + text]:
            continue
        for key, x in weights.items():
            layer = key.removesuffix(".weight")
            is_kernel = x.ndim in (2, 4) and ".embeddings." not in layer
            if is_kernel and re.search(rf"({layers})$", layer):
                down = torch.randn(rank, *x.shape[1:], generator=draw)
                up = torch.randn(x.shape[0], rank, *(1,) * (x.ndim - 2), generator=draw)
                lora.setdefault(network, {})[layer] = Factors(down, up)
    return lora


def merged(folder: Path, *terms: tuple[LoRA, float]) -> dict[str, dict[str, torch.Tensor]]:
    """A pipeline's weights with LoRA of these scales added."""
    weights = states(folder)
    for lora, scale in terms:
        for network, layers in lora.items():
            for layer, factors in layers.items():
                key = f"{layer}.weight"
                weights[network][key] = factors.added_to(weights[network][key], scale)
    return weights


def kohya(network: str, layer: str) -> tuple[str, str]:
    prefix = {"unet": "lora_unet_", "text_encoder": "lora_te_"}[network]
    stem = prefix + layer.replace(".", "_")
    return f"{stem}.lora_down.weight", f"{stem}.lora_up.weight"


def ldm(network: str, layer: str) -> tuple[str, str]:
    if network == "unet":
        numbering = compvis.UNetNumbering(blocks=1, attends=(True, False))
        layer = compvis.unet_key(f"{layer}.weight", numbering).removesuffix(".weight")
    return kohya(network, layer)


def peft(network: str, layer: str) -> tuple[str, str]:
    return f"{network}.{layer}.lora_A.weight", f"{network}.{layer}.lora_B.weight"


def diffusers_new(network: str, layer: str) -> tuple[str, str]:
    word = {"unet": "lora", "text_encoder": "lora_linear_layer"}[network]
    return f"{network}.{layer}.{word}.down.weight", f"{network}.{layer}.{word}.up.weight"


def diffusers_old(network: str, layer: str) -> tuple[str, str]:
    attention, _, word = layer.replace(".to_out.0", ".to_out").rpartition(".")
    if network == "text_encoder":
        word = f"to_{word.removesuffix('_proj')}"
    place = "processor." if network == "unet" else ""
    stem = f"{network}.{attention}.{place}{word}_lora"
    return f"{stem}.down.weight", f"{stem}.up.weight"


def domain_adapter(network: str, layer: str) -> tuple[str, str]:
    down, up = diffusers_old(network, layer)
    return down.removeprefix("unet."), up.removeprefix("unet.")


def trainers(network: str, layer: str) -> tuple[str, str]:
    place, _, word = layer.rpartition(".")
    stem = f"{network}.{place}.processor.{word}_lora"
    return f"{stem}.down.weight", f"{stem}.up.weight"


Naming = Callable[[str, str], tuple[str, str]]


def tensors_of(lora: LoRA, naming: Naming, alpha: torch.Tensor | None = None):
    """The content of a file; `alpha` beside every layer, as kohya writes it."""
    tensors: dict[str, torch.Tensor] = {}
    for network, layers in lora.items():
        for layer, factors in layers.items():
            down, up = naming(network, layer)
            tensors |= {down: factors.down.clone(), up: factors.up.clone()}
            if alpha is not None:
                tensors[f"{down.split('.')[0]}.alpha"] = alpha.clone()
    return tensors


def save_lora(file: Path, tensors: dict[str, torch.Tensor], **metadata: str) -> Path:
    """Write a LoRA's file, whose ending says its form; `.ckpt` as AnimateDiff's are."""
    if file.suffix == ".safetensors":
        save_file(tensors, file, metadata={"format": "pt"} | metadata)
    else:
        torch.save({"epoch": 1, "global_step": 2, "state_dict": tensors}, file)
    return file
