"""Motion modules as people have them: read in every form, refused by name where they are another thing, and written
back bit for bit."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from diffusers import AnimateDiffPipeline, MotionAdapter, UNetMotionModel
from safetensors.torch import load_file, save_file
from test_convert import _convert
from tiny_motion import STATE, VERSIONS, motion_unet, original_keys, random_folder, tiny_adapter
from tiny_pipeline import change_json, tiny_folder

from magicvideo_jax.convert import FILES, TORCH_FILES
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.diffusion.known_schedules import (
    ANIMATEDIFF_IN_DIFFUSERS_NOISE,
    ANIMATEDIFF_NOISE,
)
from magicvideo_jax.models.lone_motion import MotionConfig
from magicvideo_jax.models.temporal import (
    ANIMATEDIFF_V1,
    ANIMATEDIFF_V2,
    ANIMATEDIFF_V3,
    MotionNorm,
    with_motion_norm,
)
from magicvideo_jax.weights.components import MOTION, component_weights
from magicvideo_jax.weights.lora.lora_merge import with_loras
from magicvideo_jax.weights.motion_weights import positions_of
from magicvideo_jax.weights.open import open_weights
from magicvideo_jax.weights.tables.motion_keys import DIFFUSERS_KEYS, ORIGINAL_KEYS
from magicvideo_jax.weights.tables.naming import name_of
from magicvideo_jax.weights.writing.file_forms import FILE_FORMS
from magicvideo_jax.weights.writing.write_motion import norm_warning

SD = {name: f"{name}/{STATE}" for name in ("unet", "vae")}
FULL_SIZE = {
    "v1": (ANIMATEDIFF_V1, 417_137_600, 520),
    "v2": (ANIMATEDIFF_V2, 453_209_280, 546),
    "v3": (ANIMATEDIFF_V3, 417_137_600, 520),
}


def params_of(path, kind: str = "motion_adapter"):
    part = open_weights(path).parts[kind]
    return flatten(part.load(part.network().shapes))


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for key, x in one.items():
        np.testing.assert_array_equal(np.asarray(x), np.asarray(other[key]), err_msg=key)


def saved_adapter(place: Path, version: str = "v3", **options) -> Path:
    tiny_adapter(version).save_pretrained(place, **options)
    return place


def saved_original(file: Path, version: str = "v3") -> Path:
    save_file(original_keys(tiny_adapter(version)), file)
    return file


@pytest.mark.parametrize("version", FULL_SIZE)
def test_the_key_tables_are_complete_at_full_size(version):
    """Counts of AnimateDiff's files, and of diffusers' own module on no device."""
    temporal, numbers, tensors = FULL_SIZE[version]
    config = MotionConfig(temporal=temporal)
    shapes = flatten(MOTION.network(config).shapes)
    assert sum(x.size for x in shapes.values()) == numbers
    names = {p: name_of(MOTION.table, p, x.ndim) for p, x in shapes.items()}
    keys = {name.key: name.layout.shape_of(shapes[path].shape) for path, name in names.items()}
    assert len(keys) == tensors
    assert len({ORIGINAL_KEYS.key_of(key) for key in keys}) == tensors
    frames, in_middle, _ = VERSIONS[version]
    with torch.device("meta"):
        adapter = MotionAdapter(motion_max_seq_length=frames, use_motion_mid_block=in_middle)
    theirs = {key: tuple(x.shape) for key, x in adapter.state_dict().items()}
    modules = tensors // 26
    positions = DIFFUSERS_KEYS.position_keys(keys)
    assert len(theirs) == tensors + modules == len(keys | positions)
    assert theirs == keys | {key: (1, frames, *keys[norm]) for key, norm in positions.items()}
    assert len(ORIGINAL_KEYS.position_keys(keys)) == 2 * modules


def test_a_file_is_read_in_all_its_wrappings(tmp_path):
    """Whether under `state_dict`, with the prefix of torch's DDP, or with the U-Net around it."""
    plain = original_keys(tiny_adapter())
    expected = params_of(saved_original(tmp_path / "mm.safetensors"))
    beside = {
        "epoch": 3,
        "global_step": 1000,
        "animatediff_config": {"motion_module_type": "Vanilla"},
    }
    trained = {f"module.{k}": v for k, v in plain.items()}
    trained |= {f"module.{k}": v for k, v in load_file(random_folder() / SD["unet"]).items()}
    for name, content in {
        "bare.ckpt": plain,
        "v3_sd15_mm.ckpt": beside | {"state_dict": plain},
        "trained.ckpt": beside | {"state_dict": trained},
        "no_positions.ckpt": {k: v for k, v in plain.items() if not k.endswith("pos_encoder.pe")},
    }.items():
        torch.save(content, tmp_path / name)
        assert_equal(params_of(tmp_path / name), expected)
        assert (
            open_weights(tmp_path / name).parts["motion_adapter"].config.temporal == ANIMATEDIFF_V3
        )
    (note,) = open_weights(tmp_path / "trained.ckpt").notes
    assert "left out the network around the motion modules" in note


@pytest.mark.parametrize("version", VERSIONS)
def test_one_set_of_modules_is_the_same_in_every_form(tmp_path, version):
    """The norm convention and the schedule are those of the program that a form belongs to."""
    original = saved_original(tmp_path / "mm.safetensors", version)
    folder = saved_adapter(tmp_path / "adapter", version)
    assert_equal(params_of(original), params_of(folder))
    assert_equal(params_of(original), params_of(folder / STATE))
    mine, theirs, lone = map(open_weights, (original, folder, folder / STATE))
    assert mine.noise == ANIMATEDIFF_NOISE
    assert theirs.noise == lone.noise == ANIMATEDIFF_IN_DIFFUSERS_NOISE
    ours, config = (w.parts["motion_adapter"].config for w in (mine, theirs))
    assert config == lone.parts["motion_adapter"].config
    assert with_motion_norm(ours.temporal, MotionNorm.DIFFUSERS) == config.temporal
    assert with_motion_norm(config.temporal, MotionNorm.ORIGINAL) == ours.temporal
    assert ours.temporal.norm_over_frames == (version == "v1")


def test_a_half_precision_variant_is_read(tmp_path):
    adapter = tiny_adapter().half()
    adapter.save_pretrained(tmp_path, variant="fp16")
    expected = {
        key: tensor.float()
        for key, tensor in adapter.state_dict().items()
        if not key.endswith("pos_embed.pe")
    }
    found = params_of(tmp_path)
    names = {p: name_of(MOTION.table, p, x.ndim) for p, x in found.items()}
    assert_equal(
        {name.key: name.layout.to_theirs(np.asarray(found[p])) for p, name in names.items()},
        expected,
    )


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_there_and_back_is_bit_identical(tmp_path, dtype):
    """A file in AnimateDiff's keys -> a MotionAdapter, which diffusers loads -> a file in AnimateDiff's keys."""
    kind = getattr(torch, dtype)
    before = {key: x.to(kind) for key, x in original_keys(tiny_adapter("v2")).items()}
    save_file(before, tmp_path / "before.safetensors")
    _convert(tmp_path / "before.safetensors", tmp_path / "adapter", dtype=dtype)
    _convert(tmp_path / "adapter", tmp_path / "after.safetensors", dtype=dtype)
    after = load_file(tmp_path / "after.safetensors")
    assert after.keys() == before.keys()
    for key, x in after.items():
        assert x.dtype == kind
        if key.endswith("pos_encoder.pe"):  # computed, as AnimateDiff does
            torch.testing.assert_close(
                x, before[key], atol=2e-5 if dtype == "float32" else 1e-3, rtol=0
            )
        else:
            assert torch.equal(x, before[key]), key
    loaded, info = MotionAdapter.from_pretrained(tmp_path / "adapter", output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    expected = tiny_adapter("v2").state_dict()
    for key, x in loaded.state_dict().items():
        if not key.endswith("pos_embed.pe"):
            assert torch.equal(x, expected[key].to(kind).float()), key


def test_a_video_model_goes_to_diffusers_and_back(tmp_path):
    """Image weights with modules: a JAX folder, then a folder of AnimateDiffPipeline, which samples, then back."""
    saved_original(tmp_path / "mm.safetensors", "v2")
    _convert(random_folder(), tmp_path / "jax", motion=str(tmp_path / "mm.safetensors"))
    _convert(tmp_path / "jax", tmp_path / "torch")
    pipe = AnimateDiffPipeline.from_pretrained(tmp_path / "torch")
    pipe.set_progress_bar_config(disable=True)
    assert isinstance(pipe.unet, UNetMotionModel)
    expected = motion_unet("v2").state_dict()
    assert pipe.unet.state_dict().keys() == expected.keys()
    for key, x in pipe.unet.state_dict().items():
        torch.testing.assert_close(x, expected[key], atol=2e-6 if "pos_embed" in key else 0, rtol=0)
    assert pipe.scheduler.config.beta_schedule == "linear"
    clip = pipe("a bee", num_frames=2, num_inference_steps=1, output_type="np").frames
    assert clip.shape == (1, 2, 16, 16, 3)

    here, there = open_weights(tmp_path / "jax"), open_weights(tmp_path / "torch")
    assert there.parts["unet"].config == here.parts["unet"].config  # the norm convention, too
    assert there.noise == here.noise == ANIMATEDIFF_NOISE
    assert_equal(params_of(tmp_path / "jax", "unet"), params_of(tmp_path / "torch", "unet"))

    for source in ("jax", "torch"):
        _convert(tmp_path / source, tmp_path / f"{source}.safetensors", to="animatediff")
        assert_equal(
            params_of(tmp_path / f"{source}.safetensors"), params_of(tmp_path / "mm.safetensors")
        )


def test_a_pipeline_that_diffusers_saved_is_read(tmp_path):
    """Its U-Net has the modules, and `motion_adapter/` a copy of them."""
    pipe = AnimateDiffPipeline.from_pretrained(random_folder(), motion_adapter=tiny_adapter("v2"))
    pipe.save_pretrained(tmp_path / "saved")
    weights = open_weights(tmp_path / "saved")
    unet = weights.parts["unet"].config
    assert unet.temporal == with_motion_norm(ANIMATEDIFF_V2, MotionNorm.DIFFUSERS)
    assert unet.context == 64
    assert set(weights.parts) == {"unet", "vae", "text_encoder"}
    _convert(tmp_path / "saved", tmp_path / "jax")
    _convert(tmp_path / "jax", tmp_path / "back")
    for file in ("unet/config.json", "scheduler/scheduler_config.json"):
        assert json.loads((tmp_path / "back" / file).read_text()) == json.loads(
            (tmp_path / "saved" / file).read_text()
        )
    before, after = (load_file(tmp_path / place / SD["unet"]) for place in ("saved", "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(x, after[k]) for k, x in before.items() if "pos_embed" not in k)


def test_positions_are_written_as_animatediff_computes_them():
    config = MotionConfig(widths=(64, 128), blocks=1, temporal=ANIMATEDIFF_V1)
    ours = positions_of(component_weights(MOTION, config, {}), ORIGINAL_KEYS)
    theirs = original_keys(tiny_adapter("v1"))
    assert ours.keys() == {key for key in theirs if key.endswith("pos_encoder.pe")}
    for key, x in ours.items():
        np.testing.assert_allclose(x, theirs[key].numpy(), atol=2e-5)


def test_another_norm_convention_is_told_of():
    config = MotionConfig(temporal=ANIMATEDIFF_V3)
    assert not norm_warning(config, ORIGINAL_KEYS)
    assert norm_warning(config, DIFFUSERS_KEYS)


def refusal(path, **asked) -> str:
    """The one line of an attempt to put modules into image weights."""
    target = path.parent / "out"
    with pytest.raises(UserError) as error:
        _convert(asked.pop("source", random_folder()), target, motion=str(path), **asked)
    assert not target.exists()
    assert "\n" not in str(error.value)
    return str(error.value)


def _sparse(state):
    return state | {"controlnet_cond_embedding.conv_in.weight": torch.ones(2)}


def _motion_lora(state):
    root = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0."
    return {f"{root}attention_blocks.0.processor.to_q_lora.down.weight": torch.ones(2, 64)}


def _domain_adapter(state):
    root = "down_blocks.0.attentions.0.transformer_blocks.0."
    return {f"{root}attn1.processor.to_q_lora.down.weight": torch.ones(2, 64)}


def _hotshot(state):
    return {k.replace("motion_modules", "temporal_attentions"): v for k, v in state.items()}


def _pia(state):
    return state | {"conv_in.weight": torch.ones(64, 9, 3, 3)}


def _sdxl(state):
    roots = [f"{side}_blocks.{i}.motion_modules.0" for side in ("down", "up") for i in range(3)]
    widths = (320, 640, 1280, 1280, 640, 320)
    name = "temporal_transformer.norm.weight"
    return {f"{r}.{name}": torch.ones(c) for r, c in zip(roots, widths, strict=True)}


def _learned_positions(state):
    return {k: v + k.endswith("pos_encoder.pe") for k, v in state.items()}


def _half_positions(state):
    key = next(k for k in state if k.endswith("pos_encoder.pe"))
    return state | {key: state[key][:, :16].clone()}


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (_sparse, "SparseCtrl"),
        (
            _motion_lora,
            "a MotionLoRA, which is added to motion modules and is none: give it as --lora",
        ),
        (_domain_adapter, "a LoRA, such as AnimateDiff's domain adapter"),
        (_hotshot, "HotShot-XL"),
        (_pia, "PIA, whose U-Net takes 9 channels"),
        (_sdxl, "Stable Diffusion XL"),
        (_learned_positions, "holds no sinusoidal positions"),
        (_half_positions, "positions for 16, 32 frames"),
        (lambda s: dict(list(s.items())[:-1]), "1 missing"),
        (
            lambda s: {k: v for k, v in s.items() if ".norm.weight" not in k},
            "not whole motion modules",
        ),
    ],
)
def test_another_thing_than_motion_modules_is_named(tmp_path, edit, words):
    save_file(edit(original_keys(tiny_adapter())), tmp_path / "mm.safetensors")
    said = refusal(tmp_path / "mm.safetensors")
    assert words in said
    assert "mm.safetensors" in said


def test_motion_modules_given_as_a_lora_are_sent_to_their_argument(tmp_path):
    save_file(original_keys(tiny_adapter()), tmp_path / "mm.safetensors")
    save_file(tiny_adapter().state_dict(), tmp_path / "diffusers.safetensors")
    saved_adapter(tmp_path / "adapter")
    saved_adapter(tmp_path / "fp16", variant="fp16")
    parts = open_weights(random_folder()).parts
    for name in ("mm.safetensors", "diffusers.safetensors", "adapter", "fp16"):
        with pytest.raises(UserError, match=rf"{name}.*no LoRA \(--motion or config.motion_from\)"):
            with_loras(parts, [f"{tmp_path / name}:0.5"], argument="--lora")


@pytest.mark.parametrize("name", ["pytorch_lora_weights", "diffusion_pytorch_model"])
def test_a_lora_given_as_motion_modules_is_sent_to_its_argument(tmp_path, name):
    tensors = _motion_lora({}) if name.startswith("diff") else _domain_adapter({})
    save_file(tensors, tmp_path / f"{name}.safetensors")
    for place in (tmp_path, tmp_path / f"{name}.safetensors"):
        assert "--lora=FILE:SCALE" in refusal(place)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"conv_in_channels": 9}, "PIA"),
        ({"motion_max_seq_length": 24}, "positions for 32 frames"),
        ({"motion_max_seq_length": 10**9}, "supported: at most 1024"),
        ({"motion_num_attention_heads": 7}, "motion_num_attention_heads"),
        ({"motion_transformer_layers_per_block": 2}, "motion_transformer_layers_per_block"),
        ({"block_out_channels": [320, 640, 1280]}, "Stable Diffusion XL"),
        ({"use_motion_mid_block": True}, "missing"),
        ({"something_new": 5}, "something_new"),
    ],
)
def test_an_adapter_of_another_form_is_refused(tmp_path, fields, words):
    change_json(saved_adapter(tmp_path / "adapter") / "config.json", **fields)
    assert words in refusal(tmp_path / "adapter")


def test_modules_and_base_must_fit(tmp_path):
    motion = saved_original(tmp_path / "mm.safetensors")
    wide = MotionAdapter(
        block_out_channels=(64, 192), motion_layers_per_block=1, use_motion_mid_block=False
    )
    wide.save_pretrained(tmp_path / "wide")
    assert "for levels of 64, 192 channels with 1 blocks, and the U-Net has 64, 128" in refusal(
        tmp_path / "wide"
    )
    assert "U-Net is that of 2.x" in refusal(motion, source=tiny_folder(second=True))
    assert "need the U-Net" in refusal(motion, source=random_folder() / "vae")
    assert "holds no motion modules" in refusal(tiny_folder())
    _convert(random_folder(), tmp_path / "moves", motion=str(motion))
    assert "has temporal layers already" in refusal(motion, source=tmp_path / "moves")


def test_convert_offers_every_form_of_a_file():
    assert sorted(FILE_FORMS) == sorted((*FILES, *TORCH_FILES))


def test_a_target_that_cannot_be_is_refused(tmp_path):
    motion = saved_original(tmp_path / "mm.safetensors")
    for source, target, asked, words in (
        (random_folder(), "out.safetensors", {}, "a folder is written, not a file"),
        (random_folder(), "out", {"to": "motion_adapter"}, "holds no motion modules"),
        (motion, "out", {"to": "animatediff"}, "give the name of a .safetensors file"),
        (motion, "out.safetensors", {"to": "motion_adapter"}, "a folder is written, not a file"),
        (random_folder(), "out", {"motion_norm": "diffusers"}, "no motion modules: leave it out"),
        (motion, "out.ckpt", {}, "a folder is written, not a file"),
        (motion, "mm.safetensors", {}, "lies within SOURCE"),
    ):
        with pytest.raises(UserError) as error:
            _convert(source, tmp_path / target, **asked)
        assert words in str(error.value)
    (tmp_path / "there.safetensors").write_text("a thesis")
    with pytest.raises(UserError, match="is there already"):
        _convert(motion, tmp_path / "there.safetensors")
    _convert(motion, tmp_path / "adapter")
    _convert(motion, tmp_path / "adapter", overwrite=True)
    assert jax.tree.leaves(params_of(tmp_path / "adapter"))
