"""What the command line of `train` gets wrong is one line and exit code 2."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give --config=configs/t2v.py and --workdir=DIR"),
        (["--config=configs/nope.py", "--workdir=W"], "--config=configs/nope.py: no such file"),
        (
            ["--config=configs/t2v.py:nope", "--workdir=W"],
            "the presets are long, scratch, emoji and sd15, or none",
        ),
        (["--config=configs/vae.py", "--workdir=W", "--config.optim.speed=1"], "no such field"),
        (["--config=configs/vae.py", "--workdir=W", "optim.lr=1"], "optim.lr=1: not understood"),
        (
            ["--config=configs/vae.py", "--workdir=W", "--config.train.steps=0"],
            "config.train.steps=0",
        ),
        (
            ["--config=configs/t2v.py", "--workdir=W", "--config.model.trained=('film',)"],
            "config.model.trained[0]='film'",
        ),
        (
            ["--config=configs/vae.py", "--workdir=W", "--config.optim.temporal_lr=-1.0"],
            "config.optim.temporal_lr=-1.0: give more than 0",
        ),
        (
            ["--config=configs/video_vae.py", "--workdir=W", "--config.optim.freeze=all"],
            "config.optim.freeze=all",
        ),
        (
            ["--config=configs/t2v.py", "--workdir=/dev/null/x"],
            "--workdir=/dev/null/x: cannot write there",
        ),
    ],
)
def test_a_mistake_is_one_line(arguments, said, tmp_path):
    arguments = [a.replace("--workdir=W", f"--workdir={tmp_path}") for a in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "magicvideo_jax.train", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert said in done.stderr
    assert not any(tmp_path.iterdir())
