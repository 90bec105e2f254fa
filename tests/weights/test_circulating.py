"""Checkpoints as they circulate: what they carry besides weights is known by name, and a lone VAE is a VAE."""

import json
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_pipeline import FILES, change, change_json, single_file_of, states, tiny_folder

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.diffusion.noise_config import Spacing
from magicvideo_jax.diffusion.process import Prediction
from magicvideo_jax.weights.components import Weights
from magicvideo_jax.weights.formats.weight_format import OpenOptions
from magicvideo_jax.weights.open import FORMATS, open_weights
from magicvideo_jax.weights.tables import compvis_keys as compvis

Tensors = dict[str, torch.Tensor]


@cache
def _single(second: bool) -> Tensors:
    return single_file_of(tiny_folder(second=second), second=second)


def single(*, second: bool = False) -> Tensors:
    return dict(_single(second))


def saved(tensors: Tensors, file: Path) -> Path:
    save_file({key: x.contiguous() for key, x in tensors.items()}, file, metadata={"format": "pt"})
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(tiny_folder(), tmp_path / "source")


def params_of(weights: Weights, name: str) -> dict[str, np.ndarray]:
    part = weights.parts[name]
    return {path: np.asarray(x) for path, x in flatten(part.load(part.shapes())).items()}


def assert_same(weights: Weights, twin: Weights, *names: str) -> None:
    for name in names:
        ours, theirs = params_of(weights, name), params_of(twin, name)
        assert ours.keys() == theirs.keys()
        for path, x in ours.items():
            np.testing.assert_array_equal(x, theirs[path], err_msg=f"{name} {path}")


@pytest.mark.parametrize(
    ("extras", "note"),
    [
        ({"control_model.input_hint_block.0.weight": (2, 2)}, "a ControlNet (1 tensors)"),
        ({"loss.logvar": (1,), "first_stage_model.loss.d.weight": (2,)}, "a loss network (2 "),
        ({"embedding_manager.string_to_param_dict.x": (1, 64)}, "textual inversion"),
        (
            {
                "cond_stage_model.transformer.vision_model.encoder.layers.0.mlp.fc1.bias": (2,),
                "cond_stage_model.transformer.text_projection.weight": (64, 64),
                "cond_stage_model.transformer.logit_scale": (),
            },
            "the rest of a whole CLIP (3 tensors)",
        ),
        ({"first_stage_model.decoder.up.0.block.0.time_stack.norm1.weight": (2,)}, "temporal lay"),
        ({"denoiser.sigmas": (1000,), "model_ema.num_updates": ()}, ""),
    ],
)
def test_known_extras_are_left_out_with_a_note(tmp_path, extras, note):
    tensors = single() | {key: torch.ones(shape) for key, shape in extras.items()}
    weights = open_weights(saved(tensors, tmp_path / "sd.safetensors"))
    assert note in " ".join(weights.notes)
    assert set(weights.parts) == {"unet", "vae", "text_encoder"}


@pytest.mark.parametrize(
    "key", ["cond_stage_model.transformer.text_model.encoder.stranger", "vpred", "optimizer.lr"]
)
def test_unknown_keys_stay_an_error(tmp_path, key):
    file = saved(single() | {key: torch.ones(1)}, tmp_path / "sd.safetensors")
    with pytest.raises(UserError, match=key.rpartition(".")[2]):
        open_weights(file)


def test_flags_of_v_prediction_and_zero_snr_are_obeyed(tmp_path):
    flags = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    weights = open_weights(saved(single() | flags, tmp_path / "sd.safetensors"))
    assert weights.noise is not None
    assert weights.noise.prediction_type is Prediction.V
    assert weights.noise.rescale_betas_zero_snr
    assert weights.noise.timestep_spacing is Spacing.TRAILING
    assert "v_pred" in " ".join(weights.notes)
    assert "ztsnr" in " ".join(weights.notes)
    epsilon = OpenOptions(prediction=Prediction.EPS)
    with pytest.raises(UserError, match=r"ztsnr.*give --prediction_type v_prediction"):
        open_weights(tmp_path / "sd.safetensors", options=epsilon)


def test_an_exported_openclip_encoder_keeps_all_its_blocks(tmp_path):
    """diffusers writes the blocks that are read, without the projection; CompVis one more, which nobody reads."""
    whole = single(second=True)
    exported = {
        key: x
        for key, x in whole.items()
        if "resblocks.2." not in key and not key.endswith(("text_projection", "logit_scale"))
    }
    twin = open_weights(tiny_folder(second=True))
    for name, tensors in {"whole": whole, "exported": exported}.items():
        weights = open_weights(saved(tensors, tmp_path / f"{name}.safetensors"))
        assert weights.parts["text_encoder"].config.layers == 2
        assert_same(weights, twin, "text_encoder")


@pytest.mark.parametrize("prefix", ["text_model.", ""], ids=["published", "transformers-5"])
def test_a_text_encoder_folder_may_hold_a_whole_clip(folder, prefix):
    text = load_file(folder / FILES["text_encoder"])
    text = {f"{prefix}{key.removeprefix('text_model.')}": x for key, x in text.items()}
    rest = {
        "vision_model.embeddings.class_embedding": torch.ones(8),
        "visual_projection.weight": torch.ones(8, 8),
        "text_projection.weight": torch.ones(8, 8),
        "logit_scale": torch.ones(()),
    }
    saved(text | rest, folder / FILES["text_encoder"])
    config = json.loads((folder / "text_encoder/config.json").read_text())
    (folder / "text_encoder/config.json").write_text(json.dumps({"text_config": config}))
    weights, twin = open_weights(folder), open_weights(tiny_folder())
    assert "a whole CLIP (4 tensors)" in " ".join(weights.notes)
    assert weights.parts["text_encoder"].json["hidden_size"] == 64
    assert_same(weights, twin, "text_encoder")


def vae_forms(place: Path) -> dict[str, Path]:
    """The tiny pipeline's VAE in every form in which VAEs are published."""
    theirs, compvis_form = states(tiny_folder())["vae"], single()
    compvis_form = {
        key.removeprefix(compvis.VAE_PREFIX): x
        for key, x in compvis_form.items()
        if key.startswith(compvis.VAE_PREFIX)
    }
    words = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old, square = dict[str, torch.Tensor](), dict[str, torch.Tensor]()
    for key, x in theirs.items():
        is_attention = "attentions.0.to" in key and key.endswith(".weight")
        form = x[..., None, None] if is_attention else x
        square[key] = form
        word = next((word for word in words if f".{word}." in key), None)
        old[key if word is None else key.replace(f".{word}.", f".{words[word]}.")] = form
    renamed = {
        key.replace(".attn_1.q.", ".attn_1.to_q.").replace("proj_out", "to_out.0"): x
        for key, x in compvis_form.items()
    }
    prefixed = {f"{compvis.VAE_PREFIX}{key}": x for key, x in compvis_form.items()}
    forms = {
        "diffusers": theirs,
        "square": square,
        "old": old,
        "compvis": compvis_form | {"loss.logvar": torch.ones(1)},
        "renamed": renamed,
        "prefixed": prefixed,
    }
    files = {name: saved(x, place / f"{name}.safetensors") for name, x in forms.items()}
    torch.save({"state_dict": compvis_form}, place / "vae-ft.ckpt")
    shutil.copytree(tiny_folder() / "vae", place / "alone")
    shutil.copytree(tiny_folder() / "vae", place / "subfolder" / "vae")
    places = {"ckpt": "vae-ft.ckpt", "folder": "alone", "subfolder": "subfolder"}
    return files | {name: place / path for name, path in places.items()}


def test_a_lone_vae_is_a_vae_in_every_form(tmp_path):
    twin = open_weights(tiny_folder())
    for name, path in vae_forms(tmp_path).items():
        weights = open_weights(path)
        assert set(weights.parts) == {"vae"}, name
        assert weights.parts["vae"].config == twin.parts["vae"].config, name
        assert_same(weights, twin, "vae")


def test_pickles_may_be_sharded_too(folder):
    tensors = load_file(folder / FILES["vae"])
    (folder / FILES["vae"]).unlink()
    places = {}
    for i in range(2):
        name = f"diffusion_pytorch_model-{i + 1:05}-of-00002.bin"
        shard = {key: tensors[key] for key in sorted(tensors)[i::2]}
        torch.save(shard, folder / "vae" / name)
        places |= dict.fromkeys(shard, name)
    index = folder / "vae/diffusion_pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    assert_same(open_weights(folder), open_weights(tiny_folder()), "vae")


def test_a_variant_is_taken_when_asked_for_and_else_listed(folder):
    unet = folder / FILES["unet"]
    change(unet, lambda w: w.update({key: x + 1 for key, x in w.items()}))
    unet.rename(unet.with_name("diffusion_pytorch_model.non_ema.safetensors"))
    with pytest.raises(UserError, match=r"only the variants non_ema: .*--variant"):
        open_weights(folder)
    weights = open_weights(folder, options=OpenOptions(variant="non_ema"))
    assert_same(weights, open_weights(tiny_folder()), "vae")  # without the variant: the plain one
    bias = "conv_in.bias"
    plain = states(tiny_folder())["unet"][bias].numpy() + np.float32(1)
    np.testing.assert_array_equal(params_of(weights, "unet")[bias], plain)
    with pytest.raises(UserError, match=r"--variant=fp8: .* has non_ema"):
        open_weights(folder, options=OpenOptions(variant="fp8"))


def test_a_hub_cache_folder_is_the_snapshot_of_its_main_branch(tmp_path):
    cache = tmp_path / "models--someone--tiny"
    for name in ("abc", "old"):
        shutil.copytree(tiny_folder(), cache / "snapshots" / name)
    with pytest.raises(UserError, match="give one of the folders in snapshots/"):
        open_weights(cache)
    change_json(cache / "snapshots/abc/vae/config.json", scaling_factor=0.5)
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text("abc")
    assert open_weights(cache).parts["vae"].config.scaling == 0.5
    (cache / "refs/main").write_text("gone")
    with pytest.raises(UserError, match="refs/main names gone"):
        open_weights(cache)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("runwayml/none", "no such file or folder, and not in the download cache"),
        ("some/folder/of/weights", "no such file or folder; give"),
        ("/no/such/place", "no such file or folder"),
        ("gs://bucket/weights", "only local paths"),
        ("", "is empty"),
    ],
)
def test_places_that_are_not_there_are_named_with_what_to_do(path, words):
    with pytest.raises(UserError, match=rf"config\.init_from.*{words}"):
        open_weights(path, argument="config.init_from")


@pytest.mark.parametrize("ending", [".SAFETENSORS", ".ckpt", ".bin", ""])
def test_a_file_is_opened_by_its_content(tmp_path, ending):
    file = saved(single(), tmp_path / f"sd{ending}")
    assert set(open_weights(file).parts) == {"unet", "vae", "text_encoder"}
    torch.save(single(), file)
    assert set(open_weights(file).parts) == {"unet", "vae", "text_encoder"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4265146304\n",
            "git-lfs",
        ),
        (b"\n<!DOCTYPE html><html>Sign in</html>", "a web page"),
        (b"<html><body>404</body></html>", "a web page"),
        (b"", "empty"),
        (b"GGUF\x03\0\0\0", "GGUF"),
    ],
)
@pytest.mark.parametrize("place", ["w.safetensors", "w.ckpt", "unet"])
def test_what_a_file_is_instead_of_weights_is_said(folder, content, words, place):
    file = folder / FILES["unet"] if place == "unet" else folder.parent / place
    file.write_bytes(content)
    with pytest.raises(UserError, match=words) as error:
        open_weights(folder if place == "unet" else file)
    assert file.name in str(error.value)


@pytest.mark.parametrize(
    ("extra", "name"),
    [
        ("conditioner.embedders.0.transformer.x", "Stable Diffusion XL"),
        ("model.diffusion_model.label_emb.0.0.weight", "Stable Diffusion XL"),
        ("model.diffusion_model.joint_blocks.0.x", "Stable Diffusion 3"),
    ],
)
def test_other_models_are_named(tmp_path, extra, name):
    file = saved(single() | {extra: torch.ones(1)}, tmp_path / "sd.safetensors")
    with pytest.raises(UserError, match=name):
        open_weights(file)


def test_a_lora_and_an_xl_folder_are_named(tmp_path, folder):
    lora = saved({"lora_unet_x.lora_up.weight": torch.ones(1)}, tmp_path / "lora.safetensors")
    with pytest.raises(UserError, match="a LoRA"):
        open_weights(lora)
    change_json(folder / "model_index.json", _class_name="StableDiffusionXLPipeline")
    with pytest.raises(UserError, match="Stable Diffusion XL"):
        open_weights(folder)


def test_eight_bit_floats_are_named_as_not_supported(tmp_path):
    tensors = single()
    key = "model.diffusion_model.middle_block.0.in_layers.2.weight"
    tensors[key] = tensors[key].to(torch.float8_e4m3fn)
    with pytest.raises(UserError, match="8-bit floats, which are not supported"):
        open_weights(saved(tensors, tmp_path / "sd.safetensors"))


def test_a_long_list_of_betas_is_not_printed_whole(folder):
    change_json(folder / "scheduler/scheduler_config.json", trained_betas=[0.1] * 1000)
    with pytest.raises(UserError, match="trained_betas") as error:
        open_weights(folder)
    assert len(str(error.value)) < 500


def test_a_new_format_is_one_object_in_the_list(tmp_path):
    class Toy:
        name = "a toy"

        def matches(self, path: Path) -> bool:
            return path.suffix == ".toy"

        def open(self, path: Path, options: OpenOptions) -> Weights:
            return open_weights(path.read_text(), options=options)

    (tmp_path / "w.toy").write_text(str(tiny_folder()))
    with pytest.raises(UserError, match="not a weight file"):
        open_weights(tmp_path / "w.toy")
    FORMATS.append(Toy())
    try:
        assert set(open_weights(tmp_path / "w.toy").parts) == {"unet", "vae", "text_encoder"}
    finally:
        FORMATS.pop()
