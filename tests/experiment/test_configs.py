"""Every config file is an experiment; the full-size one builds, under `eval_shape`, as the network of the paper."""

import dataclasses
import importlib.util
import shutil
import sys
from contextlib import closing
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_experiment import tiny

from magicvideo_jax import train  # noqa: F401  it defines --config
from magicvideo_jax.core.dataclass_dict import optional_numbers, to_plain
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import count_parameters, flatten, unflatten
from magicvideo_jax.data.tokenizer import CaptionTokenizer, build_vocabulary
from magicvideo_jax.experiment.config import (
    RENAMED,
    Component,
    Experiment,
    check_field_exists,
    read_experiment,
)
from magicvideo_jax.experiment.networks import Networks, split_trained
from magicvideo_jax.experiment.run_folder import RunFolder
from magicvideo_jax.experiment.setup import set_up_or_resume
from magicvideo_jax.experiment.stages.registry import check_fitted, stage_of
from magicvideo_jax.models.clip_text import VIT_L
from magicvideo_jax.models.unet import SD1
from magicvideo_jax.models.vae import VAEConfig
from magicvideo_jax.runtime import command_line
from magicvideo_jax.training.checkpoint import Checkpoints
from magicvideo_jax.training.optimizer import Freeze, make_optimizer
from magicvideo_jax.training.state import fresh_state
from magicvideo_jax.training.step import train_step

CONFIGS = Path(__file__).parents[2] / "configs"
PRESETS = [
    *(("vae", ""), ("vae", "emoji"), ("t2i", ""), ("t2i", "emoji"), ("t2i", "emoji_all")),
    *(("video_vae", ""), ("video_vae", "sd15")),
    *(("lavie", preset) for preset in ("", "temporal")),
    *(("t2v", preset) for preset in ("", "long", "scratch", "latent_shift", "few", "known_frames")),
    *(("t2v", preset) for preset in ("emoji", "emoji_all", "sd15", "sd15_h100", "sd15_v5e")),
    *(("interpolation", preset) for preset in ("", "sd15")),
    ("lcm", ""),
    *(("lfdm", preset) for preset in ("", "minutes_diffusion", "mug", "mug_diffusion")),
    *(("lfdm", preset) for preset in ("mhad", "mhad_diffusion", "natops", "natops_diffusion")),
    *(("super_resolution", preset) for preset in ("", "sd_x4")),
    *(("animatediff", preset) for preset in ("", "all", "lora", "minutes")),
    *(("vdm", preset) for preset in ("", "minutes", "half", "pixels")),
]


def config_of(name: str, preset: str = ""):
    spec = importlib.util.spec_from_file_location(f"config_{name}", CONFIGS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(preset) if preset else module.get_config()


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_every_preset_is_an_experiment_with_the_fields_that_people_rely_on(name, preset):
    config = config_of(name, preset)
    assert isinstance(read_experiment(config), Experiment)
    for field in ("seed", "init_from"):
        assert field in config
    assert {"steps", "batch_size", "save_every", "preview_every"} <= set(config.train)
    assert "lr" in config.optim
    assert {"data", "fsdp", "frames"} <= set(config.mesh)


def test_an_unknown_preset_is_named():
    presets = ("vae", "t2i", "t2v", "video_vae", "animatediff")
    for name in (*presets, "interpolation", "super_resolution", "vdm", "lfdm"):
        with pytest.raises(UserError, match=rf"configs/{name}\.py:nope"):
            config_of(name, "nope")


def test_the_full_size_model_and_its_step_are_those_of_stable_diffusion_1_5(tmp_path):
    """910 M parameters with temporal parts; the step keeps every shape and dtype of the state."""
    experiment = read_experiment(config_of("t2v", "sd15"))
    model = experiment.model
    assert (dataclasses.replace(model.unet, temporal=None), model.vae, model.text) == (
        SD1,
        VAEConfig(),
        VIT_L,
    )
    networks = Networks(model)
    unet = networks.by_component[Component.UNET].shapes
    added = sum(
        leaf.size for path, leaf in flatten(unet).items() if "temporal" in path or "adaptor" in path
    )
    assert count_parameters(unet) == 859_520_964 + added + sum(
        leaf.size for leaf in jax.tree.leaves(unet["fps_embedding"])
    )
    assert 905e6 < count_parameters(unet) < 915e6

    trained, frozen = split_trained(
        networks.shapes(stage_of(experiment).components(experiment)), experiment
    )
    optimizer = make_optimizer(experiment.optim, experiment.train.steps)
    state = jax.eval_shape(partial(fresh_state, optimizer=optimizer), trained)._replace(
        frozen=frozen
    )
    batch = {
        "pixels": jax.ShapeDtypeStruct((1, 2, 64, 64, 3), jnp.uint8),
        "ids": jax.ShapeDtypeStruct((1, 77), jnp.int32),
        "fps": jax.ShapeDtypeStruct((1,), jnp.float32),
    }
    build_vocabulary(["words"], tmp_path, length=77)
    objective = stage_of(experiment).objective(
        experiment, networks, CaptionTokenizer(tmp_path, length=77)
    )
    step = partial(
        train_step,
        objective=objective,
        optimizer=optimizer,
        ema_decay=experiment.optim.ema_decay,
        seed=0,
    )
    after, metrics = jax.eval_shape(step, state, batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    assert metrics["loss"].shape == ()


@pytest.mark.slow
def test_the_full_size_model_takes_a_real_step(tmp_path):
    """Training from a random Stable Diffusion 1.5 folder in diffusers' layout, two frames of 256 x 256.

    Gradients go through all of the U-Net; only what a video network adds is updated, because
    moments of everything take more than 24 GB."""
    from full_size import write_random_sd15

    write_random_sd15(tmp_path / "sd15")
    config = config_of("t2v", "sd15")
    config.init_from = str(tmp_path / "sd15")
    config.model.unet.temporal["frames"] = 2
    config.data.frames, config.train.batch_size, config.mesh.data = 2, 1, 1
    config.optim.update(freeze=Freeze.TEMPORAL.value, warmup=0)
    folder = RunFolder(tmp_path / "run")
    folder.create()
    alone = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch, closing(Checkpoints(folder.path)) as checkpoints:
        patch.setattr(jax, "devices", lambda: alone)
        started = set_up_or_resume(read_experiment(config), folder, checkpoints)
    assert started.experiment.stage == "video"
    assert started.from_weights == 859_520_964 + 83_653_863 + 123_060_480
    shutil.rmtree(tmp_path / "sd15")
    step, batch, state = (
        jax.jit(started.step, donate_argnums=0),
        next(started.loader),
        started.state,
    )
    del started
    after, metrics = step(state, batch)
    assert np.isfinite(float(metrics["loss"]))
    assert float(metrics["grad_norm"]) > 0
    attention = flatten(after.params)[
        "unet.down_blocks.0.stages.0.transformer.temporal.to_out.kernel"
    ]
    assert np.any(attention)


BAD_VALUES = {
    "seed": (-1, 2**63),
    "model.unet.groups": (0, 3),
    "model.unet.blocks": (0,),
    "model.unet.middle_heads": (-1, 3),
    "model.unet.channels_in": (0,),
    "model.unet.context": (0,),
    "model.unet.levels": ((), ({"width": 8, "heads": 3},), ({"width": 0, "heads": 0},)),
    "model.vae.groups": (0, 3),
    "model.vae.widths": ((), (4, 0)),
    "model.vae.latent_channels": (0,),
    "model.vae.scaling": (0, "nan"),
    "model.text.heads": (0, 3),
    "model.text.layers": (0,),
    "model.text.tokens": (1,),
    "model.noise.beta_end": ("nan", 2.0),
    "model.noise.clip_sample_range": (-1, "inf"),
    "model.discriminator.groups": (0, 7),
    "model.trained": ((), ("unet", "unet"), ("discriminator",)),
    "data.frames": (0,),
    "data.size": (0, -16),
    "data.uncaptioned_fraction": (1.5, "nan"),
    "data.precompute_examples": (-1,),
    "data.workers": (-1, 2**40),
    "data.sources": ((), ({"path": " "},), ({"weight": "nan"},), ({"weight": 0},)),
    "denoising.caption_dropout": (-0.1,),
    "denoising.min_snr": (-1, 0, "nan"),
    "denoising.time_shift": (0.5, "inf"),
    "denoising.image_share": (2,),
    "autoencoding.kl": (-1e-6, "nan"),
    "super_resolution.crop": (-1,),
    "super_resolution.most_noise": (-1,),
    "video_vae.frame_difference_weight": (-1,),
    "video_vae.adversarial": ("inf",),
    "video_vae.frames_per_clip": (0,),
    "train.steps": (0, 2**31),
    "train.batch_size": (0, -8),
    "train.accumulate": (0,),
    "train.save_every": (0,),
    "train.preview_every": (-1,),
    "train.keep_every": (-1,),
    "optim.lr": (0, -1e-4, "nan", "inf", 1e39, 1e-60),
    "optim.temporal_lr": ("nan",),
    "optim.discriminator_lr": (0,),
    "optim.warmup": (-1, 4),
    "optim.b1": (1, -0.1),
    "optim.b2": (1.5,),
    "optim.weight_decay": (-0.1, "inf"),
    "optim.grad_clip_norm": (0, -1, "nan"),
    "optim.ema_decay": (1, 1.5, -0.1, "nan"),
    "mesh.data": (0, -2),
    "mesh.fsdp": (0, -1),
    "mesh.frames": (-3,),
    "mesh.fsdp_min_size": (0,),
    "sample.steps": (0,),
    "sample.guidance": (-1, "nan", "inf", 1e30),
    "sample.guidance_rescale": (-0.1, 1.1, "nan"),
    "sample.guidance_interval": ((0.5, 0.2), (-0.1, 1.0), (0.0, 2.0)),
    "sample.eta": (2, "nan"),
    "sample.picture_noise": (-1,),
    "sample.frame_noise": ("none",),
    "sample.tiles.side": (-1, 20),
    "sample.fps": (0, -8, 61, "nan"),
    "decode.frames": (0,),
    "decode.tile": (-1, 8),
    "decode.overlap": (-1,),
    "evaluate.clips": (0,),
    "evaluate.batch_size": (0,),
}


@pytest.mark.parametrize("path", BAD_VALUES)
def test_values_out_of_range_are_refused_by_their_whole_path(path):
    """The path may go on inside of lists: config.model.unet.levels[0].heads."""
    for value in BAD_VALUES[path]:
        with pytest.raises(UserError) as raised:
            read_experiment(changed(path, float(value) if value in ("nan", "inf") else value))
        assert str(raised.value).startswith(f"config.{path}"), value
        assert ": give" in str(raised.value)
        assert "\n" not in str(raised.value)


def changed(path: str, value) -> dict:
    plain = flatten(to_plain(tiny()))
    assert path in plain
    return unflatten(plain | {path: value})


def numbers() -> list[str]:
    """Every field that holds a number, some of which may be none."""
    plain = flatten(to_plain(tiny())) | dict.fromkeys(dict(optional_numbers(Experiment)), 1.0)
    return [path for path, value in plain.items() if type(value) in (int, float)]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 10**400], ids=str)
def test_no_number_of_a_config_is_infinite_or_not_a_number(value):
    assert len(numbers()) > 60
    for path in numbers():
        with pytest.raises(UserError, match=rf"^config\.{path}="):
            read_experiment(unflatten(flatten(to_plain(tiny())) | {path: value}))


def test_networks_that_do_not_fit_each_other_are_refused_before_they_are_built():
    for path, value, said in (
        ("model.unet.channels_in", 8, "config.model.unet.channels_in=8: give 4"),
        ("model.unet.context", 16, "config.model.unet.context=16: give 8"),
        ("model.vae.channels", 4, "config.model.vae.channels=4: give 3"),
    ):
        experiment = read_experiment(changed(path, value))
        with pytest.raises(UserError, match=said):
            check_fitted(experiment)


@pytest.mark.parametrize("path", RENAMED)
def test_a_renamed_field_is_refused_by_its_new_name(path):
    for refuse in (
        lambda: check_field_exists(path),
        lambda: read_experiment(unflatten(flatten(to_plain(tiny())) | {path: 1})),
    ):
        with pytest.raises(UserError, match=rf"^config\.{path}: .*config\.{RENAMED[path]}: give"):
            refuse()
    check_field_exists(RENAMED[path])


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
def test_a_command_line_is_told_the_fields_that_there_are(monkeypatch):
    for override, said in (
        ("optim.ema=0.5", "config.optim.ema: is now called config.optim.ema_decay"),
        ("optim.lrr=1", "config.optim.lrr: no such field; config.optim has lr, "),
        ("optimm.lr=1", "config.optimm: no such field; config has seed, "),
    ):
        monkeypatch.setattr(
            sys, "argv", ["train", "--config=configs/t2v.py", f"--config.{override}"]
        )
        with pytest.raises(UserError, match=said):
            command_line.parse(check_field_exists)
