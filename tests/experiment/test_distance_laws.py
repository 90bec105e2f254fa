"""FVD and FID by whole networks with random weights: what they see of damage to clips, and what they do not depend on
when `evaluate` runs in processes of their own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from checkout import ROOT
from scipy.ndimage import gaussian_filter
from test_comparison import random_clips, real_set
from torch_i3d import TorchI3D
from torch_inception import TorchInception
from torch_norms import randomise_norms

from magicvideo_jax.data.drawn.shape_clips import draw_clip, held_out_scenes
from magicvideo_jax.evaluation.feature_extractors import open_i3d, open_inception
from magicvideo_jax.evaluation.frechet import FeatureMoments, frechet_distance
from magicvideo_jax.evaluation.protocols import EvaluationProtocol

pytestmark = pytest.mark.slow
FRAMES = 9
PROTOCOL = EvaluationProtocol(clips=12, frames=FRAMES)
Clips = np.ndarray


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    for name, twin in (("i3d", TorchI3D()), ("inception", TorchInception())):
        torch.save(randomise_norms(twin).state_dict(), folder / f"{name}.pt")
    return {name: folder / f"{name}.pt" for name in ("i3d", "inception")}


@pytest.fixture(scope="module")
def clips() -> Clips:
    return np.stack([draw_clip(scene, frames=FRAMES).pixels for scene in held_out_scenes(3, 12)])


@pytest.fixture(scope="module")
def distances(weights: dict[str, Path], clips: Clips) -> Callable[[Clips], tuple[float, float]]:
    """FVD and FID of clips to the drawn ones."""
    networks = [
        open_(str(weights[name]), PROTOCOL, argument=f"--network={name}")
        for name, open_ in (("i3d", open_i3d), ("inception", open_inception))
    ]

    def moments(made: Clips) -> list[FeatureMoments]:
        rows = [network.extract(made, [""] * len(made)) for network in networks]
        return [FeatureMoments.of(x.reshape(-1, x.shape[-1])) for x in rows]

    real = moments(clips)

    def to_real(made: Clips) -> tuple[float, float]:
        fvd, fid = (
            frechet_distance(one, other) / np.trace(other.covariance())
            for one, other in zip(moments(made), real, strict=True)
        )
        return fvd, fid

    return to_real


def test_frames_in_another_order_change_fvd_and_not_fid(distances, clips):
    same_fvd, same_fid = distances(clips)
    assert max(abs(same_fvd), abs(same_fid)) < 1e-5  # fewer clips than numbers of a feature
    rng = np.random.default_rng(0)
    fvd, fid = distances(np.stack([clip[rng.permutation(FRAMES)] for clip in clips]))
    assert fvd > 1e-3
    assert abs(fid) < 1e-5


def test_both_grow_with_noise(distances, clips):
    noise = np.random.default_rng(1).standard_normal(clips.shape)
    noisy = [np.clip(clips + level * noise, 0, 255).astype(np.uint8) for level in (8, 32)]
    few, many = (np.array(distances(made)) for made in noisy)
    assert (few > 1e-4).all()
    assert (2 * few < many).all()


def test_both_grow_with_blur(distances, clips):
    blurred = [gaussian_filter(clips, (0, 0, sigma, sigma, 0)) for sigma in (1, 3)]
    little, much = (np.array(distances(made)) for made in blurred)
    assert (little > 1e-4).all()
    assert (2 * little < much).all()


@pytest.fixture
def evaluate(weights: dict[str, Path], tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start `evaluate --metrics=fid` of made clips against real ones, in a process of its own."""
    (tmp_path / "made").mkdir()
    for i, clip in enumerate(random_clips(70, 0)):
        np.save(tmp_path / f"made/{i:03d}.npy", clip)
    real = real_set(tmp_path / "real", 70, short=0)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def start(features: str, *more: str) -> subprocess.Popen[str]:
        command = [
            *(sys.executable, "-m", "magicvideo_jax.evaluate", "--metrics=fid", "--frames=1"),
            *(f"--network=inception={weights['inception']}", f"--made={tmp_path / 'made'}"),
            *(f"--features={tmp_path / features}", f"--real={real}", *more),
            f"--out={tmp_path / features}.json",
        ]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=pipe, stderr=pipe, text=True
        )

    return start


def finished(process: subprocess.Popen[str]) -> str:
    out, error = process.communicate(timeout=900)
    assert process.returncode == 0, error
    return out


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.npy")}


def test_processes_that_share_the_work_and_one_that_is_killed_give_the_same(evaluate, tmp_path):
    alone = finished(evaluate("alone"))
    expected = bytes_of(tmp_path / "alone")
    assert len(expected) == 6

    pair = [evaluate("shared", f"--share={i}/2") for i in range(2)]
    said = [finished(process) for process in pair]
    assert bytes_of(tmp_path / "shared") == expected
    assert alone in (*said, finished(evaluate("shared")))

    victim = evaluate("killed")
    while not list((tmp_path / "killed").rglob("*.npy")):
        assert victim.poll() is None, victim.communicate()[1]
        time.sleep(0.05)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    there = {p: p.stat().st_mtime_ns for p in (tmp_path / "killed").rglob("*.npy")}
    assert 0 < len(there) < len(expected)
    assert finished(evaluate("killed")) == alone
    assert bytes_of(tmp_path / "killed") == expected
    assert all(p.stat().st_mtime_ns == time_ for p, time_ in there.items())
    scores = [(tmp_path / f"{name}.json").read_bytes() for name in ("alone", "shared", "killed")]
    assert scores == [scores[0]] * 3
