"""A tiny random Stable Diffusion of diffusers' own classes, and its twins in other file forms."""

import atexit
import json
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from magicvideo_jax.weights.tables import compvis_keys as compvis
from magicvideo_jax.weights.tables.openclip_keys import openclip_key

STATE = "diffusion_pytorch_model.safetensors"
FILES = {
    "unet": f"unet/{STATE}",
    "vae": f"vae/{STATE}",
    "text_encoder": "text_encoder/model.safetensors",
}


def tiny_pipeline(*, second: bool = False) -> StableDiffusionPipeline:
    """A pipeline of 1.x's form, or with `second` of 2.x's. Widths are those that a single file's shapes can tell."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(64, 128),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=64,
        attention_head_dim=(1, 2) if second else 8,
        use_linear_projection=second,
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        sample_size=16,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=1,
            hidden_act="gelu" if second else "quick_gelu",
            projection_dim=64,
            bos_token_id=len(VOCABULARY) - 2,
            eos_token_id=len(VOCABULARY) - 1,
        )
    )
    betas = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "steps_offset": 1,
    }
    scheduler = (
        DDIMScheduler(
            **betas, clip_sample=False, set_alpha_to_one=False, prediction_type="v_prediction"
        )
        if second
        else PNDMScheduler(**betas, skip_prk_steps=True)
    )
    tokenizer = CLIPTokenizer(vocab=VOCABULARY, merges=[], model_max_length=77)
    return StableDiffusionPipeline(
        unet=unet,
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


_LETTERS = [chr(c) for c in range(ord("a"), ord("z") + 1)]
VOCABULARY = {
    word: i
    for i, word in enumerate(
        [*_LETTERS, *[f"{c}</w>" for c in _LETTERS], "<|startoftext|>", "<|endoftext|>"]
    )
}


def states(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """All weights of a diffusers folder, by network; the text encoder's with the published prefix."""
    found = {name: load_file(folder / file) for name, file in FILES.items()}
    found["text_encoder"] = {
        f"text_model.{k.removeprefix('text_model.')}": v for k, v in found["text_encoder"].items()
    }
    return found


def single_file_of(folder: Path, *, second: bool = False) -> dict[str, torch.Tensor]:
    """The same weights by CompVis's names, with what such files also hold."""
    found = states(folder)
    numbering = compvis.UNetNumbering(blocks=1, attends=(True, False))
    single = {
        compvis.UNET_PREFIX + compvis.unet_key(k, numbering): v for k, v in found["unet"].items()
    }
    for key, tensor in found["vae"].items():
        theirs = compvis.VAE_PREFIX + compvis.vae_key(key, 2)
        is_attention = ".attn_1." in theirs and ".norm." not in theirs and tensor.ndim == 2
        single[theirs] = tensor[..., None, None] if is_attention else tensor
    if second:
        single |= _open_clip(found["text_encoder"])
    else:
        single |= {compvis.TEXT_1_PREFIX + k: v for k, v in found["text_encoder"].items()}
        single[f"{compvis.TEXT_1_PREFIX}text_model.embeddings.position_ids"] = torch.arange(77)[
            None
        ]
    noise = {
        "betas": torch.ones(10),
        "alphas_cumprod": torch.ones(10),
        "sqrt_alphas_cumprod": torch.ones(10),
    }
    averages = {
        compvis.ema_key(k): v + 1 for k, v in single.items() if k.startswith(compvis.UNET_PREFIX)
    }
    return single | noise | averages | {"model_ema.decay": torch.tensor(0.5)}


def _open_clip(text: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """OpenCLIP's form, with a last block that nobody reads."""
    split = {compvis.TEXT_2_PREFIX + openclip_key(k): v for k, v in text.items()}
    single = {k: v for k, v in split.items() if not k.endswith("]")}
    for key in split:
        if key.endswith("[q]"):
            fused = key.removesuffix("[q]")
            single[fused] = torch.cat([split[f"{fused}[{name}]"] for name in "qkv"])
    last = {
        k.replace("resblocks.1.", "resblocks.2."): v + 1
        for k, v in single.items()
        if "resblocks.1." in k
    }
    root = compvis.TEXT_2_PREFIX
    return (
        single
        | last
        | {f"{root}logit_scale": torch.tensor(1.0), f"{root}text_projection": torch.ones(64, 64)}
    )


def save_shards(file: Path, parts: int) -> None:
    """Replace a weight file by shards with an index."""
    tensors = load_file(file)
    stem = file.name.removesuffix(".safetensors")
    places: dict[str, str] = {}
    for i in range(parts):
        name = f"{stem}-{i + 1:05}-of-{parts:05}.safetensors"
        shard = {key: tensors[key] for key in sorted(tensors)[i::parts]}
        save_file(shard, file.parent / name, metadata={"format": "pt"})
        places |= dict.fromkeys(shard, name)
    index: dict[str, Any] = {"metadata": {"total_size": 0}, "weight_map": places}
    (file.parent / f"{file.name}.index.json").write_text(json.dumps(index))
    file.unlink()


@cache
def tiny_folder(*, second: bool = False) -> Path:
    """The tiny pipeline as diffusers saves it; read only."""
    folder = Path(tempfile.mkdtemp(prefix="tiny_pipeline_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    tiny_pipeline(second=second).save_pretrained(folder)
    return folder


def change(file: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Rewrite a safetensors file after an edit of its tensors."""
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def change_json(file: Path, **fields: Any) -> None:
    """Rewrite a JSON file with other fields."""
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
