"""Curves of runs as panels, each a chart in Vega-Lite's JSON, which Gradio draws in the browser.

A panel shows one metric of every chosen run, or for one run several metrics that belong together. The reports are
faint, from the lowest to the highest value that a point stands for; over them lies their smoothed mean.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from magicvideo_jax.serving.runs.metric_curves import Curve

TITLES = {
    "loss": "Loss",
    "grad_norm": "Gradient norm",
    "learning_rate": "Learning rate",
    "l1": "Absolute error, L1",
    "psnr": "Reconstruction, PSNR in dB",
    "difference": "Error of frame differences, L1",
    "lpips": "LPIPS",
    "discriminator": "Discriminator, hinge",
    "kl": "KL to the unit Gaussian",
    "clips_per_second": "Clips per second",
    "data_wait_share": "Time spent waiting for data",
    "host_memory_gib": "Host memory, peak in GiB",
    "device_memory_gib": "Device memory, peak in GiB",
    "skipped": "Skipped steps (loss not finite)",
}
"""Titles of metrics, in the order of their panels; others follow by their names."""
BY_TIME = "loss_by_time/"
"""How the losses in bins of diffusion time begin."""
FROM_ZERO = ("clips_per_second", "data_wait_share", "host_memory_gib", "device_memory_gib")
"""Metrics whose axis begins at zero and is never logarithmic: their size is what they say."""
SHARES = ("data_wait_share",)
"""Metrics that are written in per cent."""
ONLY_IF_EVER = ("skipped", "skipped_in_a_row")
"""Metrics that are shown only where they are ever above zero."""
COLOURS = ("#f97316", "#2563eb", "#059669", "#c026d3", "#ca8a04", "#0891b2", "#dc2626", "#64748b")
_SCALE = ((37, 99, 235), (160, 160, 170), (249, 115, 22))
"""Blue over grey to orange, in red, green and blue."""
_NEUTRAL = "#7b828e"
"""Readable on white and on black."""
_HEIGHT = 200
_MOST_HOVERED = 300
"""Points of a chart that tell their values; each costs the browser some elements."""
_LINE = {"type": "line", "aria": False}


@dataclass(frozen=True)
class Panel:
    """A chart: its title, and its curves by the names of the legend."""

    title: str
    curves: Mapping[str, Curve]
    is_from_zero: bool = False
    is_share: bool = False
    is_ordered: bool = False
    """Whether the curves are steps of one scale, and get its colours."""


def panels_of(runs: Mapping[str, Mapping[str, Curve]]) -> Iterator[Panel]:
    """The panels of the runs' curves, by run and metric. Bins of diffusion time are shown for a run alone."""
    names = dict.fromkeys(name for curves in runs.values() for name in curves)
    for name in sorted(names, key=_place):
        having = {run: curves[name] for run, curves in runs.items() if name in curves}
        if name.startswith(BY_TIME) or (name in ONLY_IF_EVER and not _ever(having)):
            continue
        yield Panel(
            TITLES.get(name, name), having, is_from_zero=name in FROM_ZERO, is_share=name in SHARES
        )
        if name == "loss" and len(runs) == 1:
            (curves,) = runs.values()
            bins = sorted((name for name in curves if name.startswith(BY_TIME)), key=_bin)
            if bins:
                by_bin = {_bin_name(bin, bins): curves[bin] for bin in bins}
                yield Panel("Loss by diffusion time", by_bin, is_ordered=True)


def chart(panel: Panel, *, is_log: bool, smoothing: float) -> str:
    """A panel as Vega-Lite's JSON; `smoothing` is the share of a curve that a point of its mean averages."""
    is_log = is_log and not panel.is_from_zero
    raw, means, hovered = [], [], []
    for name, curve in panel.curves.items():
        rows = _rows(name, curve.steps, smooth(curve.means, smoothing), is_log)
        means += rows
        stride = -(-len(rows) * len(panel.curves) // _MOST_HOVERED)
        hovered += rows[:: -max(stride, 1)]  # the last report is one of them
        if not panel.is_ordered:
            steps = np.repeat(curve.steps, 2)
            ends = np.stack([curve.lows, curve.highs], axis=1).ravel()
            raw += _rows(name, steps, ends, is_log)
    y_scale = (
        {"type": "log", "nice": False} if is_log else {"zero": panel.is_from_zero, "nice": True}
    )
    y: dict[str, Any] = {"field": "value", "type": "quantitative", "title": None, "scale": y_scale}
    if panel.is_share:
        y["axis"] = {"format": "~%", "labelExpr": "datum.label"}
    x = {"field": "step", "type": "quantitative", "title": "step", "scale": {"nice": False}}
    colour = {
        "field": "name",
        "type": "nominal",
        "sort": None,
        "scale": {"domain": list(panel.curves), "range": _colours(panel)},
        "legend": _legend(panel),
    }
    shown = [
        {"field": "step", "type": "quantitative", "format": ",.0f"},
        {"field": "value", "type": "quantitative", "format": ".3~%" if panel.is_share else ".4~g"},
    ]
    if len(panel.curves) > 1:
        shown.insert(0, {"field": "name", "type": "nominal", "title": "curve"})
    faint = {"data": {"values": raw}, "mark": _LINE | {"strokeWidth": 1, "opacity": 0.3}}
    line = {"data": {"values": means}, "mark": _LINE | {"strokeWidth": 2, "point": len(means) < 3}}
    hover = {"type": "point", "on": "pointerover", "nearest": True, "clear": "pointerout"}
    is_near = {"param": "hover", "empty": False, "value": 1}
    points = {
        "data": {"values": hovered},
        "params": [{"name": "hover", "select": hover}],
        "mark": {"type": "point", "filled": True, "size": 60, "aria": False},
        "encoding": {"tooltip": shown, "opacity": {"condition": is_near, "value": 0}},
    }
    spec = {
        "description": _description(panel),
        "title": panel.title,
        "width": "container",
        "height": _HEIGHT,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "encoding": {"x": x, "y": y, "color": colour},
        "layer": [faint, line, points] if raw else [line, points],
        "config": _LOOK,
        "usermeta": {"embedOptions": {"renderer": "svg", "actions": False}},
    }
    return json.dumps(spec, separators=(",", ":"), allow_nan=False)


_LOOK = {
    "background": "transparent",
    "font": "ui-sans-serif, system-ui, sans-serif",
    "padding": {"left": 10, "right": 12, "top": 10, "bottom": 10},
    "view": {"stroke": None},
    "title": {
        "anchor": "start",
        "fontSize": 14,
        "fontWeight": 600,
        "color": _NEUTRAL,
        "offset": 12,
    },
    "axis": {
        "labelColor": _NEUTRAL,
        "titleColor": _NEUTRAL,
        "gridColor": _NEUTRAL,
        "gridOpacity": 0.2,
        "domain": False,
        "ticks": False,
        "labelPadding": 6,
        "labelFontSize": 11,
        "titleFontWeight": "normal",
        "tickCount": 5,
        "labelExpr": "abs(datum.value) < 1e4 ? format(datum.value, '.4~g') : format(datum.value, '.3~s')",
    },
    "axisX": {"grid": False},
    "legend": {
        "labelColor": _NEUTRAL,
        "labelFontSize": 11,
        "symbolType": "stroke",
        "symbolOpacity": 1,
    },
}


def smooth(values: Float[np.ndarray, "n"], share: float) -> Float[np.ndarray, "n"]:
    """The mean over a window of `share` of the curve centred on each point and cut at the ends; it does not lag."""
    reach = int(share * len(values) / 2)
    places = np.arange(len(values))
    low, high = np.maximum(places - reach, 0), np.minimum(places + reach + 1, len(values))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return (sums[high] - sums[low]) / (high - low)


def _rows(
    name: str, steps: Float[np.ndarray, "n"], values: Float[np.ndarray, "n"], is_log: bool
) -> list[dict[str, Any]]:
    """Points for Vega, of five digits; a logarithmic axis has no place for zero and below."""
    return [
        {"name": name, "step": round(step), "value": float(f"{value:.5g}")}
        for step, value in zip(steps.tolist(), values.tolist(), strict=True)
        if value > 0 or not is_log
    ]


def _legend(panel: Panel) -> dict[str, Any] | None:
    names = list(panel.curves)
    if len(names) < 2:
        return None
    legend: dict[str, Any] = {"title": None, "orient": "bottom", "labelLimit": 260}
    if panel.is_ordered:
        return legend | {"values": [names[0], names[-1]], "columns": 2}
    return legend | {"columns": 1}


def _colours(panel: Panel) -> Sequence[str]:
    number = len(panel.curves)
    if not panel.is_ordered:
        return [COLOURS[i % len(COLOURS)] for i in range(number)]
    at = np.linspace(0, len(_SCALE) - 1, number)
    channels = [
        np.interp(at, np.arange(len(_SCALE)), channel) for channel in zip(*_SCALE, strict=True)
    ]
    return [
        f"rgb({red:.0f},{green:.0f},{blue:.0f})" for red, green, blue in zip(*channels, strict=True)
    ]


def _description(panel: Panel) -> str:
    """What a screen reader says of a chart."""
    parts = [
        f"{name}: {curve.means[-1]:.4g} at step {curve.steps[-1]:.0f}"
        for name, curve in panel.curves.items()
        if len(curve.steps)
    ]
    return f"{panel.title}. {'; '.join(parts)}"


def _place(name: str) -> tuple[int, str]:
    known = list(TITLES)
    return (known.index(name) if name in known else len(known), name)


def _bin(name: str) -> int:
    number = name.removeprefix(BY_TIME)
    return int(number) if number.isdecimal() else 0


def _bin_name(name: str, bins: Sequence[str]) -> str:
    ends = {bins[0]: "least noise", bins[-1]: "most noise"}
    return ends.get(name, f"bin {_bin(name)}")


def _ever(curves: Mapping[str, Curve]) -> bool:
    return any(curve.highs.max(initial=0) > 0 for curve in curves.values())
