"""Motion that is trained here moves in diffusers' own AnimateDiffPipeline: the captions of held-out clips are read back
from its pixels. Two runs of the demo's size and a short one: half an hour on two cores.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from checkout import ROOT
from diffusers import AnimateDiffPipeline

from magicvideo_jax.convert import main as convert
from magicvideo_jax.data.drawn.scene import Motion
from magicvideo_jax.data.drawn.shape_clips import held_out_scenes
from magicvideo_jax.evaluation.caption_accuracy import caption_accuracy

pytestmark = pytest.mark.slow

TAUGHT = Motion.CIRCLING
CLIPS = 64


def trained(workdir: Path, **fields: object) -> dict[str, float]:
    """Train as a user does, on one device and fully optimized, and read the captions back from what
    our own sampler makes."""
    fields = {"evaluate.clips": CLIPS, "evaluate.metrics": ("caption_accuracy",), **fields}
    subprocess.run(
        [
            *(sys.executable, "-m", "magicvideo_jax.train"),
            *("--config=configs/animatediff.py:minutes", f"--workdir={workdir}"),
            *(f"--config.{path}={value}" for path, value in fields.items()),
        ],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": ""},
        check=True,
    )
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
    here = trained(tmp_path / "run")
    there = in_diffusers(tmp_path / "run", tmp_path / "folder")
    for scores in (here, there):
        assert min(scores["shape"], scores["colour"]) >= 0.9
        assert scores["motion"] >= 0.75


def test_a_motion_lora_teaches_a_motion_that_its_base_was_not_trained_on(tmp_path):
    others = tuple(motion.value for motion in Motion if motion is not TAUGHT)
    trained(tmp_path / "base", **{"data.motions": others})
    assert in_diffusers(tmp_path / "base", tmp_path / "base_folder", TAUGHT)["motion"] < 0.6

    lora = {
        "init_from": tmp_path / "base",
        "data.motions": (TAUGHT.value,),
        "model.trained": ("unet",),
        "train.steps": 800,
        "optim.freeze": "lora",
        "optim.lora.rank": 64,
        "optim.lora.layers": "temporal",
        "optim.lr": 3e-3,
        "optim.weight_decay": 0.0,
    }
    here = trained(tmp_path / "lora", **lora)
    there = in_diffusers(tmp_path / "lora", tmp_path / "folder", TAUGHT)
    for scores in (here, there):
        assert min(scores["shape"], scores["colour"]) >= 0.9
        assert scores["motion"] >= 0.75
