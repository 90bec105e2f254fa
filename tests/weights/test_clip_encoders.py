"""CLIP's encoders from every form of their files: the same embeddings as transformers' from the same weights."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny import quick
from torch_weights import randomise, relative_error, to_torch
from transformers import CLIPConfig, CLIPModel, CLIPVisionModelWithProjection

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.models.clip_layer import Activation
from magicvideo_jax.models.clip_vision import VisionConfig
from magicvideo_jax.weights.clip_encoders import OPENCLIP_CONFIG, open_text_embedder, open_vision
from magicvideo_jax.weights.clip_json import vision_config, vision_json
from magicvideo_jax.weights.components import ComponentWeights

SIZES = {"hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 2}
ENDS = {"bos_token_id": 98, "eos_token_id": 99}


@pytest.fixture(scope="module")
def clip() -> CLIPModel:
    vision = SIZES | {"intermediate_size": 96, "image_size": 24, "patch_size": 8}
    text = SIZES | ENDS | {"intermediate_size": 80, "vocab_size": 100, "max_position_embeddings": 9}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=20)
    return randomise(CLIPModel(config))


def openclip_state(clip: CLIPModel) -> dict[str, torch.Tensor]:
    """The tensors as OpenAI names them, by rules of its own."""
    state = clip.state_dict()
    renamed = {
        "logit_scale": state["logit_scale"],
        "text_projection": state["text_projection.weight"].T.contiguous(),
        "visual.proj": state["visual_projection.weight"].T.contiguous(),
        "visual.class_embedding": state["vision_model.embeddings.class_embedding"],
        "visual.conv1.weight": state["vision_model.embeddings.patch_embedding.weight"],
        "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
    }
    for root, tower in (("", "text_model"), ("visual.", "vision_model")):
        positions = state[f"{tower}.embeddings.position_embedding.weight"]
        renamed[f"{root}positional_embedding"] = positions
        for layer in range(2):
            old, new = f"{tower}.encoder.layers.{layer}", f"{root}transformer.resblocks.{layer}"
            for leaf in ("weight", "bias"):
                thirds = [state[f"{old}.self_attn.{name}_proj.{leaf}"] for name in "qkv"]
                renamed[f"{new}.attn.in_proj_{leaf}"] = torch.cat(thirds)
                for theirs, ours in (
                    ("self_attn.out_proj", "attn.out_proj"),
                    ("layer_norm1", "ln_1"),
                    ("layer_norm2", "ln_2"),
                    ("mlp.fc1", "mlp.c_fc"),
                    ("mlp.fc2", "mlp.c_proj"),
                ):
                    renamed[f"{new}.{ours}.{leaf}"] = state[f"{old}.{theirs}.{leaf}"]
    for theirs, ours in (
        ("text_model.final_layer_norm", "ln_final"),
        ("vision_model.pre_layrnorm", "visual.ln_pre"),
        ("vision_model.post_layernorm", "visual.ln_post"),
    ):
        for leaf in ("weight", "bias"):
            renamed[f"{ours}.{leaf}"] = state[f"{theirs}.{leaf}"]
    return renamed


def openai_state(clip: CLIPModel) -> dict[str, torch.Tensor]:
    numbers = {"input_resolution": 24, "context_length": 9, "vocab_size": 100}
    return openclip_state(clip) | {name: torch.tensor(n) for name, n in numbers.items()}


def embed(part: ComponentWeights, inputs: np.ndarray) -> jax.Array:
    return quick(part.network().apply)(part.load(part.network().shapes), inputs)


def check(clip: CLIPModel, path: Path, *, is_whole: bool = True) -> None:
    draw = np.random.default_rng(0)
    images = draw.normal(size=(2, 24, 24, 3)).astype(np.float32)
    expected = clip.visual_projection(clip.vision_model(to_torch(images)).pooler_output)
    errors = [relative_error(embed(open_vision(path, argument="--clip")[0], images), expected)]
    if is_whole:
        ids = draw.integers(2, 90, (2, 9), dtype=np.int32)
        ids[0, 4:], ids[1, 8] = 99, 99
        pooled = clip.text_model(torch.from_numpy(ids).long()).pooler_output
        embedder, _ = open_text_embedder(path, argument="--clip")
        errors.append(relative_error(embed(embedder, ids), clip.text_projection(pooled)))
    print(", ".join(f"relative error {error:.1e}" for error in errors))
    assert max(errors) < 1e-4


def test_a_folder_of_a_whole_clip(clip: CLIPModel, tmp_path: Path):
    clip.save_pretrained(tmp_path)
    check(clip, tmp_path)


def test_a_folder_of_the_image_encoder_and_a_pipeline_with_one(clip: CLIPModel, tmp_path: Path):
    alone = CLIPVisionModelWithProjection(clip.config.vision_config)
    alone.visual_projection = clip.visual_projection
    alone.vision_model = clip.vision_model
    alone.config.projection_dim = 20
    alone.save_pretrained(tmp_path / "image_encoder")
    check(clip, tmp_path / "image_encoder", is_whole=False)
    check(clip, tmp_path, is_whole=False)


def test_older_folders_have_pickles_and_position_ids(clip: CLIPModel, tmp_path: Path):
    ids = {
        f"{tower}.embeddings.position_ids": torch.arange(9)[None]
        for tower in ("text_model", "vision_model")
    }
    torch.save(clip.state_dict() | ids, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(clip.config.to_json_string())
    check(clip, tmp_path)


@pytest.mark.parametrize("ending", ["safetensors", "pt", "bin"])
def test_one_file_in_the_keys_of_openai(clip: CLIPModel, tmp_path: Path, ending: str):
    file = tmp_path / f"ViT.{ending}"
    if ending == "safetensors":
        save_file(openai_state(clip), file)
    else:
        torch.save(openai_state(clip), file)
    check(clip, file)
    check(clip, tmp_path)


def test_openclip_trains_with_gelu_unless_its_config_says_otherwise(
    clip: CLIPModel, tmp_path: Path
):
    file = tmp_path / "open_clip_model.safetensors"
    save_file(openclip_state(clip), file)
    part, (note,) = open_vision(file, argument="--clip")
    assert part.config.activation is Activation.GELU
    assert "GELU is assumed" in note
    (tmp_path / OPENCLIP_CONFIG).write_text(json.dumps({"model_cfg": {"quick_gelu": True}}))
    check(clip, tmp_path)


def test_configurations_are_written_and_read_without_loss():
    config = VisionConfig(size=32, patch=8, width=48, heads=6, activation=Activation.GELU)
    assert vision_config(vision_json(config), where="") == config


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as error:
        open_vision(path, argument="--clip")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_no_such_encoder_is_refused_in_one_line(clip: CLIPModel, tmp_path: Path):
    file = tmp_path / "clip.safetensors"
    state = openclip_state(clip)
    save_file({"visual.layer1.0.conv1.weight": torch.ones(2)}, file)
    assert refusal(file) == f"{file}: its image encoder is a ResNet: give a CLIP with a ViT"
    save_file({"unet.weight": torch.ones(2)}, file)
    assert refusal(file).startswith(f"--clip={file}: no CLIP: give a folder of transformers")
    save_file({k: v for k, v in state.items() if k != "visual.proj"}, file)
    assert refusal(file) == f"{file}: no visual.proj; not a whole CLIP"
    save_file({k: v for k, v in state.items() if k != "visual.ln_pre.bias"}, file)
    assert re.search(r"1 missing: visual\.ln_pre\.bias", refusal(file))
    save_file(state | {"visual.more": torch.ones(2)}, file)
    assert re.search(r"1 unknown: visual\.more", refusal(file))
    file.unlink()
    clip.save_pretrained(tmp_path)
    assert "give its folder" in refusal(tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    config["vision_config"]["num_channels"] = 4
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "field 'num_channels' is 4; supported: 3" in refusal(tmp_path)


def test_an_archive_of_torchscript_as_openai_publishes_it(clip: CLIPModel, tmp_path: Path):
    """Its tensors are read; the code beside them is not."""
    module = torch.nn.Module()
    for key, tensor in openai_state(clip).items():
        *path, name = key.split(".")
        part = module
        for step in path:
            if step not in dict(part.named_children()):
                part.add_module(step, torch.nn.Module())
            part = part.get_submodule(step)
        part.register_buffer(name, tensor)
    file = tmp_path / "ViT-B-32.pt"
    torch.jit.script(module).save(file)
    check(clip, file)
