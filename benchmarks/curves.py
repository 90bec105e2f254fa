"""Curves of runs as a picture: loss, loss by diffusion time, gradient norm, and what else a stage reports.

    python benchmarks/curves.py WORKDIR [WORKDIR ..] [--metric loss] [--out FILE.png]

One work folder gives a panel for each metric; several give one metric of each on one axis. Needs matplotlib
(requirements-dev.txt), which the package does not; TensorBoard and W&B show the same numbers while a run goes on.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.files import atomic_write
from magicvideo_jax.runtime.exit import exit_with
from magicvideo_jax.serving.runs.curve_panels import smooth
from magicvideo_jax.training.metrics_log import read_lines

Lines = Sequence[Mapping[str, float | int]]
"""The lines of metrics.jsonl, as `training.metrics_log.read_lines` reads them."""
Series = tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]
"""Steps and values."""

PANELS = {
    "loss": "loss",
    "l1": "absolute error, L1",
    "psnr": "reconstruction, PSNR in dB",
    "difference": "error of frame differences, L1",
    "lpips": "LPIPS",
    "discriminator": "discriminator, hinge",
    "kl": "KL to the unit Gaussian",
    "grad_norm": "gradient norm",
}
"""Metrics that get a panel where a run reports them, and the panel's title."""
BY_TIME = "loss_by_time/"
SMOOTHED_OVER = 0.05
"""The share of a curve that one point of its smoothed form averages."""


def main() -> None:
    """Draw the curves of the work folders on the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workdirs", nargs="+", type=Path)
    parser.add_argument("--metric", default="loss", help="the metric to compare several runs by")
    parser.add_argument("--out", type=Path, help="default: curves.png in the first work folder")
    asked = parser.parse_args()
    exit_with(lambda: draw(asked.workdirs, asked.out, metric=asked.metric))


def draw(workdirs: Sequence[Path], out: Path | None, *, metric: str) -> None:
    """Draw one run's panels, or compare several runs. Errors: `UserError` for a folder without a log."""
    for folder in workdirs:
        if not (folder / "metrics.jsonl").is_file():
            raise UserError(f"{folder}: not a work folder of train (no metrics.jsonl)")
    runs = {str(folder): read_lines(folder / "metrics.jsonl") for folder in workdirs}
    path = out or workdirs[0] / "curves.png"
    if len(workdirs) == 1:
        plot_curves(runs[str(workdirs[0])], path)
    else:
        compare_curves(runs, path, metric=metric)
    print(path)


def plot_curves(lines: Lines, path: str | Path) -> None:
    """One run: a panel for each metric that it reports, smoothed over the faint raw values.

    Errors: `UserError` where no line holds a metric to draw, or `path` cannot be written.
    """
    drawn = {name: title for name, title in PANELS.items() if len(series(lines, name)[0])}
    by_time = sorted({key for line in lines for key in line if key.startswith(BY_TIME)}, key=_place)
    number = len(drawn) + bool(by_time)
    if not number:
        raise UserError(
            f"{path}: no curves to draw: none of {len(lines)} lines holds {', '.join(PANELS)}"
        )
    figure = _figure(number)
    panels = iter(figure.axes)
    for name, title in drawn.items():
        _draw(next(panels), series(lines, name), title)
        if name == "loss" and by_time:
            _draw_by_time(next(panels), lines, by_time)
    if "loss" not in drawn and by_time:
        _draw_by_time(next(panels), lines, by_time)
    _save(figure, path)


def compare_curves(runs: Mapping[str, Lines], path: str | Path, *, metric: str = "loss") -> None:
    """One metric of several runs, by name, on one axis.

    Errors: `UserError` where a run does not hold the metric, or `path` cannot be written.
    """
    figure = _figure(1)
    (axes,) = figure.axes
    for place, (name, lines) in enumerate(runs.items()):
        steps_and_values = series(lines, metric)
        if not len(steps_and_values[0]):
            raise UserError(f"{path}: no curve to draw: {name} holds no {metric}")
        _draw(axes, steps_and_values, PANELS.get(metric, metric), colour=f"C{place}", label=name)
    axes.legend(frameon=False)
    _save(figure, path)


def series(lines: Lines, name: str) -> Series:
    """A metric's finite values and their steps; lines without it are passed over."""
    pairs = [
        (line["step"], line[name])
        for line in lines
        if np.isfinite(line.get(name, np.nan)) and "step" in line
    ]
    steps, values = np.array(pairs, float).reshape(-1, 2).T
    return steps, values


def _draw(axes: Axes, points: Series, title: str, *, colour: str = "C0", label: str = "") -> None:
    steps, values = points
    axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
    axes.plot(
        steps,
        smooth(values, SMOOTHED_OVER),
        color=colour,
        linewidth=1.6,
        marker="o" if len(steps) < 3 else "",
        label=label,
    )
    axes.set_title(title, loc="left")
    _scale(axes, values)


def _draw_by_time(axes: Axes, lines: Lines, names: Sequence[str]) -> None:
    """A line for each bin of diffusion time, dark where there is little noise."""
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.92, len(names)))
    for name, colour in zip(names, colours, strict=True):
        steps, values = series(lines, name)
        axes.plot(
            steps,
            smooth(values, SMOOTHED_OVER),
            color=colour,
            linewidth=1.2,
            marker="o" if len(steps) < 3 else "",
        )
        _scale(axes, values)
    ends = [axes.lines[0], axes.lines[-1]]
    axes.legend(ends, ["least noise", "most noise"], frameon=False, loc="upper right")
    axes.set_title("loss by diffusion time", loc="left")


def _scale(axes: Axes, values: Float[np.ndarray, "n"]) -> None:
    """Logarithmic where the values span more than a factor of four; once so, it stays so."""
    if len(values) and np.min(values) > 0 and np.max(values) > 4 * np.min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())


def _figure(number: int) -> Figure:
    """A figure of panels, two a row from four on, made without pyplot and its global state."""
    columns = number if number < 4 else -(-number // 2)
    rows = -(-number // columns)
    figure = Figure(figsize=(4.6 * columns, 3.2 * rows), dpi=110, layout="constrained")
    for place in range(number):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.grid(color="0.92", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.set_xlabel("step")
    return figure


def _save(figure: Figure, path: str | Path) -> None:
    with atomic_write(Path(path)) as aside:
        figure.savefig(aside, format="png")


def _place(name: str) -> int:
    return int(name.removeprefix(BY_TIME))


if __name__ == "__main__":
    main()
