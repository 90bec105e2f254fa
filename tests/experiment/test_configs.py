"""Every config file is an experiment; the full-size one builds, under `eval_shape`, as the network of the paper."""

import dataclasses
import importlib.util
import shutil
from contextlib import closing
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.tree import count, flatten
from magicvideo_jax.data.tokenizer import CaptionTokenizer, build_vocabulary
from magicvideo_jax.experiment.config import Component, Experiment, read_experiment
from magicvideo_jax.experiment.networks import Networks, split_trained
from magicvideo_jax.experiment.run_folder import RunFolder
from magicvideo_jax.experiment.setup import set_up_or_resume
from magicvideo_jax.experiment.stages.registry import stage_of
from magicvideo_jax.models.clip_text import VIT_L
from magicvideo_jax.models.unet import SD1
from magicvideo_jax.models.vae import VAEConfig
from magicvideo_jax.training.checkpoint import Checkpoints
from magicvideo_jax.training.optimizer import Freeze, make_optimizer
from magicvideo_jax.training.state import fresh_state
from magicvideo_jax.training.step import train_step

CONFIGS = Path(__file__).parents[2] / "configs"
PRESETS = [
    *(("vae", ""), ("vae", "emoji"), ("t2i", ""), ("t2i", "emoji")),
    *(("video_vae", ""), ("video_vae", "sd15")),
    *(("t2v", preset) for preset in ("", "long", "scratch", "emoji", "sd15")),
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
    for name in ("vae", "t2i", "t2v", "video_vae"):
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
    assert count(unet) == 859_520_964 + added + sum(
        leaf.size for leaf in jax.tree.leaves(unet["fps_embedding"])
    )
    assert 905e6 < count(unet) < 915e6

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
    """From a random Stable Diffusion 1.5 folder in diffusers' layout, two frames of 256 x 256. Gradients go through all
    of the U-Net; only what a video network adds is updated, because moments of everything take more than 24 GB."""
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
