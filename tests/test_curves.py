"""Curves are drawn from whatever a run has logged."""

import json
import os
import sys

import numpy as np
import pytest
from curves import SMOOTHED_OVER, compare_curves, main, plot_curves, series, smooth
from PIL import Image

from magicvideo_jax.core.errors import UserError


def logged(number: int, level: float = 1.0) -> list[dict[str, float]]:
    """Lines as training writes them; bins of diffusion time come and go."""
    rng = np.random.default_rng(0)
    lines = []
    for i in range(number):
        loss = level * (0.1 + np.exp(-i / 20)) * rng.uniform(0.9, 1.1)
        bins = {f"loss_by_time/{b}": loss / (b + 1) for b in range(10) if rng.uniform() < 0.9}
        lines.append(
            {"step": 20 * i, "loss": loss, "grad_norm": loss, "clips_per_second": 8.0} | bins
        )
    return lines


def drawn(path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def test_a_run_is_three_panels_without_pyplot(tmp_path):
    loaded = "matplotlib.pyplot" in sys.modules
    plot_curves(logged(100), tmp_path / "new" / "curves.png")
    height, width, _ = drawn(tmp_path / "new" / "curves.png").shape
    assert width > 3 * height
    assert ("matplotlib.pyplot" in sys.modules) == loaded
    assert os.listdir(tmp_path / "new") == ["curves.png"]


@pytest.mark.parametrize(
    "lines",
    [
        logged(1),
        logged(2),
        [{"step": 10, "loss": 0.0}, {"step": 20, "loss": 0.0}],
        [{"step": 10, "loss_by_time/3": 0.5}],
        [
            {"step": 10 * i, "loss": 0.3, "l1": 0.1 / (i + 1), "psnr": 20.0 + i, "kl": 3e3 + i}
            for i in range(30)
        ],
        [
            {"step": 10, "loss": float("nan")},
            {"step": 20, "loss": 1.0},
            {"step": 30},
            {"loss": 2.0},
        ],
    ],
    ids=["one line", "two lines", "zeros", "no loss", "vae", "gaps"],
)
def test_missing_metrics_are_left_out(tmp_path, lines):
    plot_curves(lines, tmp_path / "curves.png")
    assert np.min(drawn(tmp_path / "curves.png")) < 100


def test_runs_are_compared_on_one_axis(tmp_path):
    compare_curves({"from T2I": logged(50), "from scratch": logged(80, 3.0)}, tmp_path / "two.png")
    colours = {tuple(colour) for colour in drawn(tmp_path / "two.png").reshape(-1, 3).tolist()}
    assert {(31, 119, 180), (255, 127, 14)} <= colours
    compare_curves({"one": logged(5)}, tmp_path / "norm.png", metric="grad_norm")
    drawn(tmp_path / "norm.png")


def test_smoothing_keeps_constants_and_does_not_lag():
    assert np.allclose(smooth(np.full(200, 3.0), SMOOTHED_OVER), 3)
    line = np.arange(200.0)
    assert np.allclose(smooth(line, SMOOTHED_OVER)[10:-10], line[10:-10])
    assert np.allclose(smooth(np.array([1.0, 2.0]), SMOOTHED_OVER), [1, 2])
    assert len(smooth(np.zeros(0), SMOOTHED_OVER)) == 0


def test_series_passes_over_what_is_not_finite():
    steps, values = series(
        [{"step": 1, "a": 2.0}, {"step": 2, "a": float("inf")}, {"step": 3}], "a"
    )
    assert (steps.tolist(), values.tolist()) == ([1], [2])


def test_errors_are_named(tmp_path):
    with pytest.raises(UserError, match="no curves to draw: none of 1 lines"):
        plot_curves([{"step": 1, "clips_per_second": 2.0}], tmp_path / "curves.png")
    with pytest.raises(UserError, match="scratch holds no loss"):
        compare_curves({"scratch": []}, tmp_path / "two.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"curves\.png cannot be written: Not a directory"):
        plot_curves(logged(3), tmp_path / "file" / "curves.png")
    assert os.listdir(tmp_path) == ["file"]


def test_one_work_folder_gives_its_panels_and_several_give_a_comparison(tmp_path, monkeypatch):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        lines = "".join(json.dumps(line) + "\n" for line in logged(5))
        (tmp_path / name / "metrics.jsonl").write_text(lines)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["curves.py", "one"])
    main()
    monkeypatch.setattr(sys, "argv", ["curves.py", "one", "two", "--out=both.png"])
    main()
    assert drawn(tmp_path / "one" / "curves.png").shape != drawn(tmp_path / "both.png").shape


def test_a_folder_without_a_log_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["curves.py", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert f"{tmp_path}: not a work folder" in capsys.readouterr().err
