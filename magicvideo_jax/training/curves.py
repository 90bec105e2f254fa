"""Plots of a run's metrics.jsonl: loss, loss by diffusion time, gradient norm, and metrics of the
training stage.
"""

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

LogLines = Sequence[Mapping[str, float | int]]
"""The lines of metrics.jsonl, as `training.metrics.read_lines` reads them."""
Curve = tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]
"""Steps and values of one metric."""

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
"""Metrics that have a panel where a run reports them, with the title of the panel."""
BY_TIME = "loss_by_time/"
"""Prefix of the losses by bin of diffusion time."""
SMOOTHED_OVER = 0.05
"""Fraction of a curve that the running mean averages over."""


def plot_curves(lines: LogLines, path: str | Path) -> None:
    """Plot a run as PNG: one panel per metric, smoothed values over faint raw ones.

    Errors: `UserError` where no line holds a metric to draw, or `path` cannot be written.
    """
    drawn = {name: title for name, title in PANELS.items() if len(curve_of(lines, name)[0])}
    by_time = sorted(
        {key for line in lines for key in line if key.startswith(BY_TIME)}, key=_bin_number
    )
    number = len(drawn) + bool(by_time)
    if not number:
        raise UserError(
            f"{path}: no curves to draw: none of {len(lines)} lines holds {', '.join(PANELS)}"
        )
    figure = _figure(number)
    panels = iter(figure.axes)
    for name, title in drawn.items():
        _draw(next(panels), curve_of(lines, name), title)
        if name == "loss" and by_time:
            _draw_by_time(next(panels), lines, by_time)
    if "loss" not in drawn and by_time:
        _draw_by_time(next(panels), lines, by_time)
    _save(figure, path)


def curve_of(lines: LogLines, name: str) -> Curve:
    """Steps and finite values of a metric. Lines without it are skipped."""
    pairs = [
        (line["step"], line[name])
        for line in lines
        if np.isfinite(line.get(name, np.nan)) and "step" in line
    ]
    steps, values = np.array(pairs, float).reshape(-1, 2).T
    return steps, values


def smooth(values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Centred running mean, over a shorter window near the ends."""
    reach = int(SMOOTHED_OVER * len(values) / 2)
    index = np.arange(len(values))
    low, high = np.maximum(index - reach, 0), np.minimum(index + reach + 1, len(values))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return (sums[high] - sums[low]) / (high - low)


def _draw(axes: Axes, points: Curve, title: str) -> None:
    steps, values = points
    axes.plot(steps, values, color="C0", alpha=0.25, linewidth=0.8)
    axes.plot(
        steps,
        smooth(values),
        color="C0",
        linewidth=1.6,
        marker="o" if len(steps) < 3 else "",
    )
    axes.set_title(title, loc="left")
    _scale(axes, values)


def _draw_by_time(axes: Axes, lines: LogLines, names: Sequence[str]) -> None:
    """Draw one line per bin of diffusion time, dark for little noise."""
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.92, len(names)))
    for name, colour in zip(names, colours, strict=True):
        steps, values = curve_of(lines, name)
        axes.plot(
            steps, smooth(values), color=colour, linewidth=1.2, marker="o" if len(steps) < 3 else ""
        )
        _scale(axes, values)
    ends = [axes.lines[0], axes.lines[-1]]
    axes.legend(ends, ["least noise", "most noise"], frameon=False, loc="upper right")
    axes.set_title("loss by diffusion time", loc="left")


def _scale(axes: Axes, values: Float[np.ndarray, "n"]) -> None:
    """Make the axis logarithmic where values span more than a factor of four."""
    if len(values) and np.min(values) > 0 and np.max(values) > 4 * np.min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())


def _figure(number: int) -> Figure:
    """Figure with panels in one row, or from four panels on in two rows."""
    # Not pyplot's, whose global state belongs to the user.
    columns = number if number < 4 else -(-number // 2)
    rows = -(-number // columns)
    figure = Figure(figsize=(4.6 * columns, 3.2 * rows), dpi=110, layout="constrained")
    for index in range(number):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.grid(color="0.92", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.set_xlabel("step")
    return figure


def _save(figure: Figure, path: str | Path) -> None:
    with atomic_write(Path(path)) as aside:
        figure.savefig(aside, format="png")


def _bin_number(name: str) -> int:
    return int(name.removeprefix(BY_TIME))
