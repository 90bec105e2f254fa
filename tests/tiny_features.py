"""Random networks of two layers in the place of I3D, Inception and CLIP, whose weights are large."""

from collections.abc import Sequence

import numpy as np
import pytest

from magicvideo_jax.evaluation.feature_extractors import (
    EXTRACTORS,
    FeatureExtractor,
    OpenExtractor,
)
from magicvideo_jax.evaluation.feature_metrics import FEATURE_METRICS
from magicvideo_jax.evaluation.protocols import EvaluationProtocol
from magicvideo_jax.experiment.comparison import feature_files

TINY_NETWORKS = ("i3d", "inception", "clip")
_SIDE = 8


def use_tiny_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `--network` open a tiny network, with known weights where its file is called so; keep features of 4 clips
    in a file."""
    for kind in TINY_NETWORKS:
        monkeypatch.setitem(EXTRACTORS, kind, tiny_network(kind))
    monkeypatch.setattr(feature_files, "CLIPS_PER_FILE", 4)


def tiny_network(kind: str) -> OpenExtractor:
    """Features of 6 numbers of a clip, or of each frame; for clip, one number that depends on the caption."""
    mixing = np.random.default_rng(len(kind)).standard_normal((_SIDE * _SIDE * 3, 6))

    def extract(clips: np.ndarray, captions: Sequence[str]) -> np.ndarray:
        step = clips.shape[2] // _SIDE
        x = clips[:, :, ::step, ::step].reshape(*clips.shape[:2], -1) / 255
        rows = np.tanh(x @ mixing).astype(np.float32)
        if kind == "clip":
            lengths = np.array([len(caption) for caption in captions], np.float32)
            return rows[..., :1] / lengths[:, None, None]
        if kind == "inception":
            return rows
        return (rows * (1 + np.arange(len(rows[0]), dtype=np.float32))[:, None]).mean(1)[:, None]

    def open_network(path: str, protocol: EvaluationProtocol, *, argument: str) -> FeatureExtractor:
        known = next(iter(FEATURE_METRICS["fvd"].names)) if "known" in path else None
        words = f"{path}, eps {protocol.eps:g}"
        return FeatureExtractor(extract, known, "0a1b2c3d", words, is_fitted=kind == "i3d")

    return open_network
