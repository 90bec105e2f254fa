"""Motion that is trained here moves in diffusers' own AnimateDiffPipeline: the captions of held-out clips are read back
from its pixels. Two runs of the demo's size and a short one: half an hour on two cores.
"""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AnimateDiffPipeline

from magicvideo_jax.convert import main as convert
from magicvideo_jax.data.drawn.scene import Motion
from magicvideo_jax.data.drawn.shape_clips import held_out_scenes
from magicvideo_jax.evaluation.caption_accuracy import caption_accuracy
from magicvideo_jax.experiment.config import read_experiment
from magicvideo_jax.experiment.run import run

pytestmark = pytest.mark.slow

CONFIG = Path(__file__).parents[2] / "configs/animatediff.py"
TAUGHT = Motion.CIRCLING
CLIPS = 64


def minutes():
    """The config of `configs/animatediff.py:minutes`, to be changed."""
    spec = importlib.util.spec_from_file_location("config_animatediff", CONFIG)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config("minutes")


def trained(config, workdir: Path) -> dict[str, float]:
    """Train, and read the captions back from what our own sampler makes."""
    config.evaluate.update(clips=CLIPS, metrics=("caption_accuracy",))
    run(read_experiment(config), workdir)
    return json.loads((workdir / "metrics.json").read_text())["caption_accuracy"]


def in_diffusers(workdir: Path, folder: Path, *motions: Motion) -> dict[str, float]:
    """The same from what diffusers makes of the exported run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["convert", str(workdir), str(folder), "--to=diffusers"])
        convert()
    pipe = AnimateDiffPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    scenes = held_out_scenes(0, CLIPS, motions or tuple(Motion))
    clips: list[np.ndarray] = []
    for first in range(0, CLIPS, 8):
        made = pipe(
            [scene.caption for scene in scenes[first : first + 8]],
            num_frames=16,
            height=64,
            width=64,
            guidance_scale=3.0,
            num_inference_steps=20,
            generator=torch.Generator().manual_seed(first),
            output_type="np",
        ).frames
        clips += [np.round(255 * clip).astype(np.uint8) for clip in made]
    return caption_accuracy(clips, [scene.truth for scene in scenes])


def test_modules_that_are_trained_here_move_there(tmp_path):
    here = trained(minutes(), tmp_path / "run")
    there = in_diffusers(tmp_path / "run", tmp_path / "folder")
    for scores in (here, there):
        assert min(scores["shape"], scores["colour"]) >= 0.9
        assert scores["motion"] >= 0.75


def test_a_motion_lora_teaches_a_motion_that_its_base_was_not_trained_on(tmp_path):
    config = minutes()
    config.data.motions = tuple(motion.value for motion in Motion if motion is not TAUGHT)
    trained(config, tmp_path / "base")
    assert in_diffusers(tmp_path / "base", tmp_path / "base_folder", TAUGHT)["motion"] < 0.6

    config = minutes()
    config.init_from = str(tmp_path / "base")
    config.data.motions = (TAUGHT.value,)
    config.model.trained = ("unet",)
    config.train.steps = 800
    config.optim.update(freeze="lora", lr=3e-3, weight_decay=0.0)
    config.optim.lora.update(rank=64, layers="temporal")
    here = trained(config, tmp_path / "lora")
    there = in_diffusers(tmp_path / "lora", tmp_path / "folder", TAUGHT)
    for scores in (here, there):
        assert min(scores["shape"], scores["colour"]) >= 0.9
        assert scores["motion"] >= 0.75
