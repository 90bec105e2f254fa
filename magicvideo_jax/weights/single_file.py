"""A single-file checkpoint as a source: there is no configuration in it, so the shapes of the weights tell.

Head counts are not in shapes: 1.x has 8 heads everywhere, 2.x (linear projections) heads of 64 channels, and both
text encoders heads of 64. Nor are group counts: 32.
"""

import re
from pathlib import Path

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig
from magicvideo_jax.diffusion.process import Prediction
from magicvideo_jax.models.clip_text import Activation, TextConfig
from magicvideo_jax.models.unet import UNetConfig, UNetLevelConfig
from magicvideo_jax.models.vae import VAEConfig
from magicvideo_jax.weights import compvis
from magicvideo_jax.weights import config_json as settings
from magicvideo_jax.weights.components import (
    TEXT,
    UNET,
    VAE,
    ComponentWeights,
    LoadParams,
    StableDiffusion,
)
from magicvideo_jax.weights.load import loader, with_current_keys
from magicvideo_jax.weights.scheduler_json import noise_json
from magicvideo_jax.weights.tensors import Tensors

_HEADS_1, _HEAD_WIDTH = 8, 64
_ATTENTION = "transformer_blocks.0.attn2.to_k.weight"


def open_single_file(
    path: Path,
    tensors: Tensors,
    *,
    ema: bool,
    prediction: Prediction | None,
    tokenizer: Path | None,
) -> StableDiffusion:
    """Stable Diffusion 1.x or 2.x. `ema` takes the averaged weights of the U-Net."""
    where = str(path)
    is_2 = any(key.startswith(compvis.TEXT_2) for key in tensors)
    text_prefix = compvis.TEXT_2 if is_2 else compvis.TEXT_1
    _check_keys(tensors, text_prefix, where=where)
    raw_unet = compvis.component_tensors(tensors, compvis.UNET)
    unet = _Shapes(raw_unet, where=f"{where} (U-Net)")
    config, numbering = _unet(unet)

    size, notes = 64, []
    if prediction is None:
        prediction = Prediction.V if is_2 else Prediction.EPS
        if is_2:
            notes.append(
                "Stable Diffusion 2.x files do not say what the network predicts; assuming v (768-pixel models): "
                "for the 512-pixel base models give --prediction_type epsilon"
            )
    if is_2 and prediction is Prediction.V:
        size = 96
    if tokenizer is None:
        notes.append("a single file holds no tokenizer: give --tokenizer FOLDER to add one")
    noise = NoiseScheduleConfig(prediction_type=prediction)

    vae_tensors = compvis.flat_attention(compvis.component_tensors(tensors, compvis.VAE))
    vae = _vae(_Shapes(vae_tensors, where=f"{where} (VAE)"))
    text_tensors = compvis.component_tensors(tensors, text_prefix)
    text, text_load = _text_2(text_tensors, where) if is_2 else _text_1(text_tensors, where)
    return StableDiffusion(
        unet=ComponentWeights(
            UNET,
            config,
            settings.unet_json(config, sample_size=size),
            loader(
                UNET.table,
                _averaged(raw_unet, tensors, where=where) if ema else raw_unet,
                where=f"{where} (U-Net)",
                file_key=lambda key: compvis.unet_key(key, numbering),
            ),
        ),
        vae=ComponentWeights(
            VAE,
            vae,
            settings.vae_json(vae, sample_size=size * vae.factor),
            loader(
                VAE.table,
                vae_tensors,
                where=f"{where} (VAE)",
                extras=(r"loss\..*",),
                file_key=lambda key: compvis.vae_key(key, len(vae.widths)),
            ),
        ),
        text_encoder=ComponentWeights(TEXT, text, settings.text_json(text), text_load),
        noise=noise,
        noise_json=noise_json(noise),
        tokenizer=tokenizer,
        notes=tuple(notes),
    )


class _Shapes:
    """Shapes by key; a missing one is the user's file."""

    def __init__(self, tensors: Tensors, *, where: str):
        self.tensors, self.where = tensors, where

    def rank(self, key: str) -> int:
        if key not in self.tensors:
            raise UserError(
                f"{self.where}: no {key}; not a whole Stable Diffusion 1.x or 2.x checkpoint"
            )
        return len(self.tensors[key].shape)

    def axis(self, key: str, axis: int) -> int:
        if self.rank(key) <= axis:
            shape = self.tensors[key].shape
            raise UserError(
                f"{self.where}: {key} has shape {shape}; not a Stable Diffusion 1.x or 2.x checkpoint"
            )
        return self.tensors[key].shape[axis]

    def count(self, pattern: str) -> int:
        """One more than the largest number in the keys that match; 0 if none does."""
        found = (re.match(pattern, key) for key in self.tensors)
        return max((int(match.group(1)) + 1 for match in found if match), default=0)


def _check_keys(tensors: Tensors, text_prefix: str, *, where: str) -> None:
    """Every key belongs to a network, to its averages, or to what is known to be no weight."""
    for prefix, name in ((compvis.VAE, "VAE"), (text_prefix, "text encoder")):
        if not any(key.startswith(prefix) for key in tensors):
            raise UserError(
                f"{where}: holds no {name} ({prefix}*); a checkpoint of the whole pipeline is needed"
            )
    known = re.compile("|".join(compvis.EXTRAS))
    prefixes = (compvis.UNET, compvis.VAE, text_prefix, "model_ema.")
    extra = [key for key in tensors if not key.startswith(prefixes) and not known.fullmatch(key)]
    if extra:
        more = ", ..." if len(extra) > 8 else ""
        raise UserError(f"{where}: {len(extra)} unknown keys: {', '.join(extra[:8])}{more}")


def _unet(unet: _Shapes) -> tuple[UNetConfig, compvis.UNetNumbering]:
    inputs = unet.count(r"input_blocks\.(\d+)\.")
    halvings = sorted(
        int(found.group(1))
        for key in unet.tensors
        if (found := re.fullmatch(r"input_blocks\.(\d+)\.0\.op\.weight", key))
    )
    blocks = (halvings[0] if halvings else inputs) - 1
    if blocks < 1 or halvings != [(blocks + 1) * (i + 1) for i in range(len(halvings))]:
        raise UserError(
            f"{unet.where}: halvings at input_blocks {halvings}; not a Stable Diffusion U-Net"
        )
    widths, attends = [], []
    for level in range(len(halvings) + 1):
        last = (blocks + 1) * level + blocks
        widths.append(unet.axis(f"input_blocks.{last}.0.out_layers.3.weight", 0))
        attends.append(f"input_blocks.{last}.1.proj_in.weight" in unet.tensors)
    linear = unet.rank("middle_block.1.proj_in.weight") == 2
    heads = [width // _HEAD_WIDTH if linear else _HEADS_1 for width in widths]
    for width, n in zip(widths, heads, strict=True):
        if n < 1 or width % n or width % 32:
            raise UserError(f"{unet.where}: width {width}; not a Stable Diffusion 1.x or 2.x U-Net")
    config = UNetConfig(
        levels=tuple(
            UNetLevelConfig(w, n if a else 0)
            for w, n, a in zip(widths, heads, attends, strict=True)
        ),
        middle_heads=heads[-1],
        blocks=blocks,
        channels_in=unet.axis("input_blocks.0.0.weight", 1),
        channels_out=unet.axis("out.2.weight", 0),
        context=unet.axis(f"middle_block.1.{_ATTENTION}", 1),
        linear_projection=linear,
    )
    return config, compvis.UNetNumbering(blocks, tuple(attends))


def _vae(vae: _Shapes) -> VAEConfig:
    levels = vae.count(r"encoder\.down\.(\d+)\.")
    widths = tuple(vae.axis(f"encoder.down.{i}.block.0.conv1.weight", 0) for i in range(levels))
    if not widths or any(width % 32 for width in widths):
        raise UserError(f"{vae.where}: widths {widths}; not Stable Diffusion's VAE")
    return VAEConfig(
        widths=widths,
        blocks=vae.count(r"encoder\.down\.0\.block\.(\d+)\."),
        channels=vae.axis("encoder.conv_in.weight", 1),
        latent_channels=vae.axis("decoder.conv_in.weight", 1),
    )


def _text_1(tensors: Tensors, where: str) -> tuple[TextConfig, LoadParams]:
    where = f"{where} (text encoder)"
    tensors = with_current_keys(tensors, TEXT.aliases, where=where)
    text, root = _Shapes(tensors, where=where), "text_model."
    config = TextConfig(
        width=text.axis(f"{root}embeddings.token_embedding.weight", 1),
        layers=text.count(r"text_model\.encoder\.layers\.(\d+)\."),
        heads=text.axis(f"{root}embeddings.token_embedding.weight", 1) // _HEAD_WIDTH,
        hidden=text.axis(f"{root}encoder.layers.0.mlp.fc1.weight", 0),
        vocabulary=text.axis(f"{root}embeddings.token_embedding.weight", 0),
        tokens=text.axis(f"{root}embeddings.position_embedding.weight", 0),
    )
    _check_heads(config, where)
    return config, loader(TEXT.table, tensors, where=where, extras=TEXT.extras)


def _text_2(tensors: Tensors, where: str) -> tuple[TextConfig, LoadParams]:
    """OpenCLIP's encoder without its last block, which Stable Diffusion 2.x does not read."""
    where = f"{where} (text encoder)"
    tensors = compvis.split_thirds(tensors)
    text = _Shapes(tensors, where=where)
    last = text.count(r"transformer\.resblocks\.(\d+)\.") - 1
    config = TextConfig(
        width=text.axis("token_embedding.weight", 1),
        layers=last,
        heads=text.axis("token_embedding.weight", 1) // _HEAD_WIDTH,
        hidden=text.axis("transformer.resblocks.0.mlp.c_fc.weight", 0),
        vocabulary=text.axis("token_embedding.weight", 0),
        tokens=text.axis("positional_embedding", 0),
        activation=Activation.GELU,
    )
    _check_heads(config, where)
    extras = (rf"transformer\.resblocks\.{last}\..*", r"logit_scale|text_projection|attn_mask")
    return config, loader(
        TEXT.table, tensors, where=where, extras=extras, file_key=compvis.openclip_key
    )


def _check_heads(config: TextConfig, where: str) -> None:
    if config.heads < 1 or config.width % _HEAD_WIDTH or config.layers < 1:
        raise UserError(
            f"{where}: width {config.width}, {config.layers} layers; not Stable Diffusion's text encoder"
        )


def _averaged(unet: Tensors, tensors: Tensors, *, where: str) -> Tensors:
    twins = {key: compvis.ema_key(compvis.UNET + key) for key in unet}
    missing = [twin for twin in twins.values() if twin not in tensors]
    if missing:
        raise UserError(
            f"{where}: --ema asks for averaged weights; {len(missing)} are missing: {missing[0]}, ..."
        )
    return {key: tensors[twin] for key, twin in twins.items()}
