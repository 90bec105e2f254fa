"""Real runs, killed at any moment: they end with the bits of a run that was not."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from checkout import ROOT
from quick_xla import QUICK
from tiny_experiment import tiny

from magicvideo_jax.core.tree import flatten
from magicvideo_jax.experiment import setup as starting
from magicvideo_jax.experiment.config import Experiment
from magicvideo_jax.experiment.run_folder import RunFolder
from magicvideo_jax.parallel.mesh import make_mesh
from magicvideo_jax.training.checkpoint import Checkpoints
from magicvideo_jax.training.step import CompiledStep

STEPS = 12


def command(workdir: Path, *more: str, steps: int = STEPS) -> list[str]:
    return [
        *(
            sys.executable,
            "-m",
            "magicvideo_jax.train",
            "--config=tests/tiny_config.py",
            f"--workdir={workdir}",
        ),
        *(
            f"--config.train.steps={steps}",
            "--config.train.save_every=2",
            "--config.train.preview_every=1000",
        ),
        *("--config.train.log_every=1", "--config.train.keep_last=3", *more),
    ]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "XLA_FLAGS": QUICK, **more}


def train(
    workdir: Path, *more: str, code: int = 0, launch: tuple[str, ...] = (), **said: str
) -> str:
    asked = [*launch, *command(workdir, *more)]
    done = subprocess.run(
        asked, cwd=ROOT, env=environment(**said), check=False, capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    return done.stderr


def steps_saved(workdir: Path) -> int:
    return max(
        (int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()),
        default=0,
    )


def content(workdir: Path, step: int = STEPS):
    """Parameters, averages, moments, the step and the place in the data."""
    items = {
        "state": ocp.args.StandardRestore(),
        "ema": ocp.args.StandardRestore(),
        "position": ocp.args.JsonRestore(),
    }
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        restored = checkpointer.restore(
            workdir / "checkpoints" / str(step), args=ocp.args.Composite(**items)
        )
    return dict(restored.items())


def assert_same(workdir: Path, other: Path) -> None:
    ours, theirs = content(workdir), content(other)
    assert ours["position"] == theirs["position"]
    for name in ("state", "ema"):
        jax.tree.map(np.testing.assert_array_equal, ours[name], theirs[name])
    losses = [
        [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (workdir, other)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == STEPS


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("unbroken")
    train(workdir)
    return workdir


def break_off(workdir: Path, how: int, *, after: int, wait: float) -> tuple[int, str]:
    """The exit code of a run that gets a signal some time after it has saved that step."""
    with subprocess.Popen(
        command(workdir),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while steps_saved(workdir) < after and process.poll() is None:
            time.sleep(0.002)
        time.sleep(wait)
        process.send_signal(how)
        _, said = process.communicate()
    return process.returncode, said


def check_kills(unbroken: Path, workdir: Path, times: int) -> None:
    """Each kill is a random time after the next or the one after that was saved, while others are computed and written;
    now and then it is before the first."""
    draw, left = random.Random(0), []
    for number in range(times):
        if steps_saved(workdir) > STEPS - 6:
            shutil.rmtree(workdir)
        steps = draw.choice((0, 1, 1, 1, 3, 3))
        break_off(
            workdir,
            signal.SIGKILL,
            after=steps_saved(workdir) + steps,
            wait=draw.uniform(0, 1 if steps else 20),
        )
        left.append(steps_saved(workdir))
        print(
            f"kill {number}: {left[-1]} steps saved, {[p.name for p in (workdir / 'checkpoints').glob('*')]}"
        )
    assert any(0 < steps < STEPS for steps in left), left
    train(workdir)
    assert_same(workdir, unbroken)


@pytest.mark.slow
def test_a_run_killed_and_stopped_ends_with_the_same_bits(unbroken, tmp_path):
    code, _ = break_off(tmp_path, signal.SIGKILL, after=2, wait=0.02)
    assert code == -signal.SIGKILL
    began = steps_saved(tmp_path)
    code, said = break_off(tmp_path, signal.SIGTERM, after=began + 2, wait=0)
    assert code == 75, said
    last = said.splitlines()[-1]
    assert (
        last
        == f"stopped by SIGTERM: step {steps_saved(tmp_path)} of {STEPS} is saved; the same command goes on"
        + (" (exit code 75)")
    )
    assert steps_saved(tmp_path) > began
    assert f"resuming at step {steps_saved(tmp_path)}" in train(tmp_path)
    assert_same(tmp_path, unbroken)


@pytest.mark.slow
def test_a_run_killed_20_times_ends_with_the_same_bits(unbroken, tmp_path):
    check_kills(unbroken, tmp_path / "run", 20)


@pytest.mark.slow
def test_stopped_at_any_moment_nothing_is_lost(unbroken, tmp_path):
    """SIGTERM while Python imports, XLA compiles, steps run, checkpoints are written, and scores are made."""
    draw, codes = random.Random(1), []
    for _ in range(12):
        with subprocess.Popen(
            command(tmp_path), cwd=ROOT, env=environment(), stderr=subprocess.PIPE
        ) as process:
            before = steps_saved(tmp_path)
            time.sleep(draw.uniform(1, 20))
            process.send_signal(signal.SIGTERM)
            process.communicate()
        codes.append(process.returncode)
        assert steps_saved(tmp_path) >= before
    # -15: before Python had come to our first line.
    assert set(codes) <= {0, 75, -signal.SIGTERM}, codes
    assert 75 in codes
    train(tmp_path)
    assert_same(tmp_path, unbroken)


def steps_on(devices: int, workdir: Path, until: int) -> tuple[list[float], dict[str, np.ndarray]]:
    """A real experiment's losses and last parameters; it goes on from what is saved, and saves the last step."""
    experiment: Experiment = replace(tiny(), train=replace(tiny().train, steps=6))
    folder, losses = RunFolder(workdir), []
    folder.create()
    with pytest.MonkeyPatch.context() as patch, closing(Checkpoints(workdir)) as checkpoints:
        patch.setattr(
            starting, "make_mesh", lambda shape: make_mesh(shape, jax.devices()[:devices])
        )
        started = starting.set_up_or_resume(experiment, folder, checkpoints)
        state, step = started.state, CompiledStep(started.step, started.state)
        for _ in range(int(state.step), until):
            state, metrics = step(state, next(started.loader))
            losses.append(float(metrics["loss"]))
        checkpoints.save(until, state, position=started.loader.position(), config={})
    last = flatten({"params": state.params, "ema": state.ema})
    return losses, {path: np.asarray(leaf) for path, leaf in last.items()}


@pytest.fixture(scope="module")
def on_eight(tmp_path_factory):
    """A work folder in the middle, and what became of it there."""
    workdir = tmp_path_factory.mktemp("eight")
    steps_on(8, workdir / "half", 2)
    shutil.copytree(workdir / "half", workdir / "whole")
    return workdir / "half", *steps_on(8, workdir / "whole", 4)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [4, 1])
def test_a_run_of_eight_devices_goes_on_on_fewer(on_eight, tmp_path, devices):
    half, losses, params = on_eight
    shutil.copytree(half, tmp_path / "other")
    theirs, others = steps_on(devices, tmp_path / "other", 4)
    assert theirs == pytest.approx(losses, rel=1e-6)
    # In norm: of what began as zero two steps ago, single numbers are all rounding.
    for kind in ("params", "ema"):
        error = sum(
            np.square(others[path] - leaf).sum()
            for path, leaf in params.items()
            if path.startswith(kind)
        )
        norm = sum(np.square(leaf).sum() for path, leaf in params.items() if path.startswith(kind))
        assert np.sqrt(error / norm) < 1e-6
        assert norm > 1


@pytest.mark.slow
def test_a_run_of_two_processes_goes_on_in_one(unbroken, tmp_path, free_port):
    """SIGTERM to one of them saves and ends both, at the same step."""
    two = (str(ROOT / "launch" / "local.sh"), "2")
    with subprocess.Popen(
        [*two, *command(tmp_path)],
        cwd=ROOT,
        env=environment(PORT=str(free_port)),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        while steps_saved(tmp_path) < 4 and process.poll() is None:
            time.sleep(0.01)
        holder = json.loads((tmp_path / "run.lock").read_text())["pid"]
        os.kill(holder, signal.SIGTERM)
        _, said = process.communicate()
    assert process.returncode == 75, said
    assert said.count("is saved; the same command goes on") == 1
    began = steps_saved(tmp_path)
    assert 4 <= began < STEPS
    assert f"resuming at step {began}" in train(tmp_path)
    ours, theirs = content(tmp_path), content(unbroken)
    for name in ("state", "ema"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
            ours[name],
            theirs[name],
        )
