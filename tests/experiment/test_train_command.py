"""What the command line of `train` gets wrong is one line and exit code 2."""

import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from checkout import ROOT

from magicvideo_jax import train
from magicvideo_jax.runtime.exit import exit_with
from magicvideo_jax.runtime.preemption import PreemptionListener

# ml_collections loads config files so.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch) -> Path:
    """The current folder is the repository, as in the README's commands."""
    monkeypatch.chdir(ROOT)
    return tmp_path


@pytest.fixture(autouse=True)
def fresh_flags():
    """absl keeps the flags of one command line for the process; overrides add to them."""
    names = set(flags.FLAGS)
    yield
    for name in set(flags.FLAGS) - names:
        delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()


def refused(capsys, monkeypatch, *arguments: str) -> str:
    """The line."""
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    with pytest.raises(SystemExit) as end:
        exit_with(lambda: train.train(PreemptionListener()))
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give --config=configs/t2v.py and --workdir=DIR"),
        (["--config=configs/nope.py", "--workdir=W"], "--config=configs/nope.py: no such file"),
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
            "config.optim.temporal_lr=-1.0",
        ),
        (
            ["--config=configs/video_vae.py", "--workdir=W", "--config.optim.freeze=all"],
            "config.optim.freeze=all",
        ),
        (
            ["--config=configs/t2v.py", "--workdir=/dev/null/x"],
            "--workdir=/dev/null/x: cannot write there",
        ),
        (["--config=configs/t2v.py", "--workdir=gs://bucket/run"], "--workdir=gs://bucket/run"),
        (["--config=configs/t2v.py", "--workdir="], "--workdir is empty"),
        (["--config=configs/t2v.py", "--workdir=~nobody-here/run"], "--workdir=~nobody-here/run"),
    ],
)
def test_a_mistake_is_one_line(arguments, words, workdir, capsys, monkeypatch):
    arguments = [a.replace("--workdir=W", f"--workdir={workdir}") for a in arguments]
    assert words in refused(capsys, monkeypatch, *arguments)
    assert not any(workdir.iterdir())


def test_a_home_folder_is_no_folder_named_tilde(workdir, capsys, monkeypatch):
    """Shells leave ~ alone behind an =."""
    (workdir / "run").touch()  # so that it is refused before it begins
    monkeypatch.setenv("HOME", str(workdir))
    line = refused(capsys, monkeypatch, "--config=configs/t2v.py", "--workdir=~/run")
    assert f"--workdir={workdir}/run" in line
    assert not (ROOT / "~").exists()


REPORTS_TORCH = """
import runpy, sys
sys.argv = ["train", *sys.argv[1:]]
try:
    runpy.run_module("magicvideo_jax.train", run_name="__main__")
finally:
    print("torch" in sys.modules)
"""


def test_a_mistake_in_the_config_is_named_without_importing_torch(tmp_path):
    """Where torch is installed, libraries import it, and that takes seconds."""
    command = [sys.executable, "-c", REPORTS_TORCH, "--config=configs/t2v.py:nope"]
    done = subprocess.run(
        [*command, f"--workdir={tmp_path}"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr == (
        "error: --config=configs/t2v.py:nope: the presets are long, scratch, latent_shift, few, known_frames, emoji, "
        "emoji_all, sd15, sd15_h100 and sd15_v5e, or none\n"
    )
    assert done.stdout == "False\n"
