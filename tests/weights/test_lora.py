"""LoRA files in every form are added as torch would add them; what is no LoRA for a model is refused by name."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers.loaders.lora_conversion_utils import (
    _convert_non_diffusers_lora_to_diffusers,
    _maybe_map_sgm_blocks_to_diffusers,
)
from diffusers.utils import convert_unet_state_dict_to_peft
from test_convert import _convert
from tiny_pipeline import change, states, tiny_folder
from torch_lora import (
    ATTENTION,
    EVERY_LAYER,
    TRANSFORMERS,
    diffusers_new,
    diffusers_old,
    domain_adapter,
    kohya,
    ldm,
    merged,
    peft,
    random_lora,
    save_lora,
    tensors_of,
    trainers,
)

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.models.clip_text import TextConfig
from magicvideo_jax.models.unet import SD1, SD2
from magicvideo_jax.weights.components import TEXT, UNET, ComponentWeights
from magicvideo_jax.weights.lora.lora_files import kernel_layers, lora_forms, open_lora
from magicvideo_jax.weights.lora.lora_merge import parse_lora, with_loras
from magicvideo_jax.weights.open import open_weights
from magicvideo_jax.weights.param_sources import GivenParams
from magicvideo_jax.weights.tables.naming import name_of

RANK = 4


def close(ours, theirs):
    """Compare within rounding; an update here is some ten times its kernel."""
    for network in ("unet", "text_encoder"):
        assert ours[network].keys() == theirs[network].keys()
        for key, x in theirs[network].items():
            expected = x.numpy()
            error = np.abs(ours[network][key].numpy() - expected).max()
            assert error <= 1e-6 * np.abs(expected).max(), key


def added(*loras, source=None):
    """U-Net and text encoder of a pipeline with LoRA, by PyTorch's names."""
    opened = open_weights(source or tiny_folder()).parts
    networks = {name: opened[name] for name in ("unet", "text_encoder")}
    weights: dict[str, dict[str, torch.Tensor]] = {}
    for name, part in with_loras(networks, loras, argument="--lora").items():
        weights[name] = {}
        for path, x in flatten(part.load(part.shapes())).items():
            row = name_of(part.kind.table, path, x.ndim)
            theirs = row.layout.to_theirs(np.array(x))
            weights[name][row.key] = torch.from_numpy(theirs)
    return weights


FORMS = {
    "kohya": (kohya, TRANSFORMERS, torch.tensor(2.0)),
    "kohya's whole numbers": (kohya, TRANSFORMERS, torch.tensor(2)),
    "kohya without alpha": (kohya, TRANSFORMERS, None),
    "convolutions": (kohya, EVERY_LAYER, torch.tensor(1.0)),
    "LDM": (ldm, EVERY_LAYER, torch.tensor(2.0)),
    "PEFT": (peft, TRANSFORMERS, None),
    "diffusers": (diffusers_new, TRANSFORMERS, None),
    "diffusers until 0.20": (diffusers_old, ATTENTION, None),
}


OF_2 = ("kohya", "LDM", "diffusers")
"""Forms that are tried on 2.x, whose proj_in and proj_out are linear, too."""


@pytest.mark.parametrize(
    ("form", "second"), [(form, False) for form in FORMS] + [(form, True) for form in OF_2]
)
def test_every_form_is_added_as_torch_adds_it(tmp_path, form, second):
    naming, layers, alpha = FORMS[form]
    folder = tiny_folder(second=second)
    lora = random_lora(folder, layers, rank=RANK)
    assert len(lora["unet"]) >= 24
    assert len(lora["text_encoder"]) >= 8
    file = save_lora(tmp_path / "lora.safetensors", tensors_of(lora, naming, alpha))
    scale = 0.7 if alpha is None else 0.7 * float(alpha) / RANK
    ours = added(f"{file}:0.7", source=folder)
    close(ours, merged(folder, (lora, scale)))


def test_the_domain_adapter_is_added_with_a_scale_of_its_own(tmp_path):
    """AnimateDiff's keys in a pickle, from a training on several devices, in half precision."""
    lora = random_lora(tiny_folder(), ATTENTION, rank=RANK, text=False)
    half = {f"module.{k}": x.half() for k, x in tensors_of(lora, domain_adapter).items()}
    file = save_lora(tmp_path / "v3_sd15_adapter.ckpt", half)
    rounded = {
        "unet": {n: f._replace(down=f.down.half().float(), up=f.up.half().float()) for n, f in lora["unet"].items()}
    }  # fmt: skip
    close(added(f"{file}:0.25"), merged(tiny_folder(), (rounded, 0.25)))


def test_names_of_trainers_are_known(tmp_path):
    """`to_out.processor.0_lora`, `ff.net.0.processor.proj_lora`."""
    lora = random_lora(tiny_folder(), rf"{ATTENTION}|ff\.net\.0\.proj", rank=RANK, text=False)
    tensors = tensors_of(lora, trainers)
    assert any(key.endswith(".attn1.to_out.processor.0_lora.down.weight") for key in tensors)
    assert any(key.endswith(".ff.net.0.processor.proj_lora.up.weight") for key in tensors)
    file = save_lora(tmp_path / "lora.safetensors", tensors)
    close(added(str(file)), merged(tiny_folder(), (lora, 1.0)))


def test_several_files_add_up_in_any_order(tmp_path):
    one = random_lora(tiny_folder(), TRANSFORMERS, rank=RANK)
    other = random_lora(tiny_folder(), ATTENTION, rank=2, seed=1, text=False)
    files = [
        f"{save_lora(tmp_path / 'one.safetensors', tensors_of(one, kohya, torch.tensor(8.0)))}:0.5",
        f"{save_lora(tmp_path / 'other.safetensors', tensors_of(other, peft))}:-1",
    ]
    expected = merged(tiny_folder(), (one, 0.5 * 8 / RANK), (other, -1.0))
    close(added(*files), expected)
    close(added(*reversed(files)), expected)


def test_layers_without_factors_keep_their_bits_and_scale_0_adds_nothing(tmp_path):
    lora = random_lora(tiny_folder(), r"attn1\.to_q", rank=RANK, text=False)
    file = save_lora(tmp_path / "lora.safetensors", tensors_of(lora, kohya))
    before, after = states(tiny_folder()), added(str(file))
    changed = {k for n in after for k in after[n] if not torch.equal(before[n][k], after[n][k])}
    assert changed == {f"{layer}.weight" for layer in lora["unet"]}
    close(added(f"{file}:0"), before)


def test_convert_adds_lora_and_its_own_folders_take_it_too(tmp_path):
    lora = random_lora(tiny_folder(), TRANSFORMERS, rank=RANK)
    file = save_lora(tmp_path / "lora.safetensors", tensors_of(lora, kohya))
    _convert(tiny_folder(), tmp_path / "ours", lora=[f"{file}:0.5"])
    _convert(tmp_path / "ours", tmp_path / "theirs", lora=[f"{file}:0.25"])
    close(states(tmp_path / "theirs"), merged(tiny_folder(), (lora, 0.75)))


def test_alpha_in_the_header_of_a_file_is_obeyed(tmp_path):
    """diffusers writes PEFT's settings of each network as JSON into the metadata."""
    lora = random_lora(tiny_folder(), ATTENTION, rank=RANK)
    settings = {
        "unet.r": RANK,
        "unet.lora_alpha": 8,
        "unet.alpha_pattern": {"mid_block.attentions.0.transformer_blocks.0.attn1.to_q": 2},
        "text_encoder.lora_alpha": 6.0,
        "text_encoder.use_rslora": True,
    }
    file = save_lora(
        tmp_path / "lora.safetensors",
        tensors_of(lora, peft),
        lora_adapter_metadata=json.dumps(settings),
    )
    named = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    terms = [
        ({"unet": {n: f for n, f in lora["unet"].items() if n != named}}, 8 / RANK),
        ({"unet": {named: lora["unet"][named]}}, 2 / RANK),
        ({"text_encoder": lora["text_encoder"]}, 6 / RANK**0.5),
    ]
    close(added(str(file)), merged(tiny_folder(), *terms))


def test_a_folder_of_peft_is_a_lora(tmp_path):
    lora = random_lora(tiny_folder(), ATTENTION, rank=RANK, text=False)
    folder = tmp_path / "adapter"
    folder.mkdir()
    tensors = {
        key.replace("unet.", "base_model.model.", 1): x for key, x in tensors_of(lora, peft).items()
    }
    save_lora(folder / "adapter_model.safetensors", tensors)
    (folder / "adapter_config.json").write_text(json.dumps({"lora_alpha": 12, "r": RANK}))
    close(added(str(folder)), merged(tiny_folder(), (lora, 12 / RANK)))


def full_size(config):
    text = TextConfig()
    configs = {UNET: config, TEXT: text}
    return {
        kind.folder: ComponentWeights(kind, one, {}, GivenParams({}, dict, ""))
        for kind, one in configs.items()
    }


@pytest.mark.parametrize("config", [SD1, SD2], ids=["1.x", "2.x"])
def test_at_full_size_a_name_means_one_layer_and_diffusers_agrees(config):
    parts = full_size(config)
    layers, forms = kernel_layers(parts), lora_forms(parts)
    assert len([layer for layer in layers if layer.network == "unet"]) == 282
    meant = {}
    for layer in layers:
        for form in forms:
            for names in form.names(layer.network, layer.name):
                for key in names:
                    assert meant.setdefault(key, layer) == layer, key
    for layer in layers:
        down, up = kohya(layer.network, layer.name)
        if layer.network == "text_encoder" and ".mlp." in layer.name:
            continue  # these two names are spelt out in the next lines
        renamed = _convert_non_diffusers_lora_to_diffusers(
            {down: torch.zeros(1), up: torch.zeros(1)}
        )
        for key in renamed[0]:
            assert meant[key] == layer, key
        if layer.network == "unet":
            for key in convert_unet_state_dict_to_peft(renamed[0]):
                assert meant[key] == layer, key
    assert "lora_te_text_model_encoder_layers_11_mlp_fc2.lora_up.weight" in meant
    transformers = [x for x in layers if re.search(rf"({TRANSFORMERS})$", x.name)]
    assert len([x for x in transformers if x.network == "unet"]) == 192
    assert len([x for x in transformers if x.network == "text_encoder"]) == 72


def test_names_with_compvis_block_numbers_are_those_that_diffusers_reads():
    layers, forms = kernel_layers(full_size(SD1)), lora_forms(full_size(SD1))
    transformers = [x for x in layers if ".attentions." in x.name]
    assert len(transformers) == 192
    for layer in transformers:
        (names,) = forms[-1].names("unet", layer.name)
        old, today = (
            {down: torch.zeros(1), up: torch.zeros(1)}
            for down, up in (names[:2], kohya("unet", layer.name))
        )
        old = _maybe_map_sgm_blocks_to_diffusers(old, SimpleNamespace(layers_per_block=2))
        renamed = [_convert_non_diffusers_lora_to_diffusers(x)[0].keys() for x in (old, today)]
        assert renamed[0] == renamed[1]


def refusal(tmp_path, tensors, **metadata):
    file = save_lora(tmp_path / "lora.safetensors", tensors, **metadata)
    with pytest.raises(UserError) as caught:
        open_lora(file, open_weights(tiny_folder()).parts)
    message = str(caught.value)
    assert message.startswith(str(file))
    assert "\n" not in message
    assert len(message) < 500
    return message


LAYER = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
MOTION = "motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0"


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (f"{LAYER}.lora_mid.weight", "Tucker"),
        (f"{LAYER}.hada_w1_a", "LoHa"),
        (f"{LAYER}.lokr_w1", "LoKr"),
        (f"{LAYER}.dora_scale", "DoRA"),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", "Stable Diffusion XL"),
        ("lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_k.alpha", "Stable Diffusion XL"),
        (f"down_blocks.0.{MOTION}.processor.to_q_lora.down.weight", "AnimateDiff's motion modules"),
        (
            "lora_te_text_model_encoder_layers_7_mlp_fc1.lora_down.weight",
            "the model's text encoder does not have",
        ),
        ("lora_unet_nonsense.lora_down.weight", "layers that the model does not have"),
    ],
)
def test_other_adapters_are_refused_by_name(tmp_path, key, said):
    lora = random_lora(tiny_folder(), r"attn1\.to_q", rank=RANK, text=False)
    assert said in refusal(tmp_path, tensors_of(lora, kohya) | {key: torch.ones(4, 4)})


def test_factors_must_be_two_of_the_right_shape(tmp_path):
    lora = random_lora(tiny_folder(), r"attn2\.to_k", rank=RANK, text=False)
    whole = tensors_of(lora, kohya, torch.tensor(1.0))
    first = next(iter(whole)).removesuffix(".lora_down.weight")
    without = {key: x for key, x in whole.items() if key != f"{first}.lora_up.weight"}
    assert f"1 missing: {first}.lora_up.weight" in refusal(tmp_path, without)
    wider = whole | {f"{first}.lora_down.weight": torch.ones(RANK, 1024)}
    assert "made for Stable Diffusion 2.x" in refusal(tmp_path, wider)
    assert "I32" in refusal(
        tmp_path, whole | {f"{first}.lora_down.weight": torch.ones(RANK, 64, dtype=torch.int32)}
    )
    assert "alpha" in refusal(tmp_path, whole | {f"{first}.alpha": torch.ones(2)})
    assert "alpha" in refusal(tmp_path, whole | {f"{first}.alpha": torch.tensor(float("nan"))})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("{", "not JSON"),
        ("[]", "not fields"),
        ('{"unet.lora_alpha": NaN}', "alpha is nan"),
        ('{"unet.use_dora": true}', "DoRA"),
        ('{"unet.alpha_pattern": {"^down.*": 3}}', "names none of its layers"),
    ],
)
def test_settings_that_cannot_be_obeyed_are_refused(tmp_path, settings, said):
    lora = random_lora(tiny_folder(), ATTENTION, rank=RANK, text=False)
    assert said in refusal(tmp_path, tensors_of(lora, peft), lora_adapter_metadata=settings)


def test_factors_that_are_not_finite_are_refused_when_read(tmp_path):
    lora = random_lora(tiny_folder(), r"attn1\.to_q", rank=RANK, text=False)
    file = save_lora(tmp_path / "lora.safetensors", tensors_of(lora, kohya))
    change(file, lambda tensors: tensors[min(tensors)].fill_(float("nan")))
    with pytest.raises(UserError, match=r"lora\.safetensors: lora_unet_.* not finite"):
        _convert(tiny_folder(), tmp_path / "out", lora=[str(file)])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "file", "scale"),
    [
        ("style.safetensors", "style.safetensors", 1.0),
        ("style.safetensors:0.8", "style.safetensors", 0.8),
        (r"C:\loras\style.safetensors", r"C:\loras\style.safetensors", 1.0),
        (r"C:\loras\style.safetensors:-1e-1", r"C:\loras\style.safetensors", -0.1),
        ("a:2:.5", "a:2", 0.5),
    ],
)
def test_the_last_number_after_a_colon_is_the_scale(text, file, scale):
    assert parse_lora(text, argument="--lora") == (file, scale)


@pytest.mark.parametrize("text", ["", " :1", "a:1e9"])
def test_what_is_no_file_with_a_scale_names_the_argument(text):
    with pytest.raises(UserError, match="--lora="):
        parse_lora(text, argument="--lora")


def test_a_lora_needs_a_file_and_a_network(tmp_path):
    parts = open_weights(tiny_folder()).parts
    with pytest.raises(UserError, match=r"--lora=.*none\.pt: no such file"):
        with_loras(parts, [str(tmp_path / "none.pt:0.5")], argument="--lora")
    with pytest.raises(UserError, match="no U-Net to add it to"):
        with_loras({"vae": parts["vae"]}, ["a"], argument="--lora")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no LoRA in this folder"):
        with_loras(parts, [str(tmp_path / "empty")], argument="--lora")
    page = tmp_path / "page.safetensors"
    page.write_text("<!doctype html>")
    with pytest.raises(UserError, match=r"page\.safetensors: a web page"):
        with_loras(parts, [str(page)], argument="--lora")


def test_a_lora_given_as_weights_says_where_it_belongs(tmp_path):
    lora = random_lora(tiny_folder(), ATTENTION, rank=RANK, text=False)
    file = save_lora(tmp_path / "adapter.ckpt", tensors_of(lora, domain_adapter))
    with pytest.raises(UserError, match=r"a LoRA, .*--lora=FILE:SCALE"):
        open_weights(file)
