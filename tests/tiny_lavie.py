"""Files from which LaVie samples, tiny: three checkpoints, Stable Diffusion of the same widths, an x4 upscaler."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionUpscalePipeline,
    UNet2DConditionModel,
)
from lavie_twin import tiny_twin
from tiny_pipeline import VOCABULARY, tiny_folder
from torch_weights import randomise
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

FILES = {
    "base": "lavie_base.pt",
    "interpolation": "lavie_interpolation.pt",
    "vsr": "lavie_vsr.pt",
}


@cache
def lavie_files() -> Path:
    """A folder of the three checkpoints as they are published; read only."""
    folder = Path(mkdtemp(prefix="tiny_lavie_"))
    for kind, name in FILES.items():
        torch.save({"ema": tiny_twin(kind).twin.state_dict()}, folder / name)
    return folder


def stable_diffusion() -> Path:
    """Weights whose VAE and text encoder fit the first two."""
    return tiny_folder()


@cache
def upscaler() -> Path:
    """The pipeline of an x4 upscaler as diffusers saves it; read only."""
    torch.manual_seed(0)
    pipeline = StableDiffusionUpscalePipeline(
        unet=randomise(UNet2DConditionModel(**tiny_twin("vsr").diffusers)),
        vae=AutoencoderKL(
            block_out_channels=(32, 32, 64),
            layers_per_block=1,
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            scaling_factor=0.08333,
        ),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(VOCABULARY),
                hidden_size=48,
                intermediate_size=96,
                num_hidden_layers=1,
                num_attention_heads=2,
                hidden_act="gelu",
                bos_token_id=len(VOCABULARY) - 2,
                eos_token_id=len(VOCABULARY) - 1,
            )
        ),
        tokenizer=CLIPTokenizer(vocab=VOCABULARY, merges=[], model_max_length=77),
        low_res_scheduler=DDPMScheduler(
            beta_start=1e-4, beta_end=0.02, beta_schedule="scaled_linear"
        ),
        scheduler=DDIMScheduler(
            beta_start=1e-4,
            beta_end=0.02,
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            steps_offset=1,
            set_alpha_to_one=False,
            clip_sample=False,
        ),
    )
    folder = Path(mkdtemp(prefix="tiny_upscaler_"))
    pipeline.save_pretrained(folder)
    return folder
