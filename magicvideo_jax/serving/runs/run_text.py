"""The texts of the runs tab as HTML: what a run is doing, its previews, scores and settings. All text is escaped."""

import base64
import json
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from magicvideo_jax.serving.runs.run_reading import RunSnapshot, RunState

STYLE = """<style>
.mv-run { line-height: 1.5; }
.mv-run h3 { margin: 0 0 .35rem; font-size: 1.1rem; font-weight: 600; overflow-wrap: anywhere; }
.mv-badge { display: inline-block; margin-left: .5rem; padding: 0 .6rem; border-radius: 1rem; font-size: .8rem;
  font-weight: 600; vertical-align: middle; color: #fff !important; background: #64748b; }
.mv-badge.mv-on { background: #c2410c; }
.mv-badge.mv-done { background: #047857; }
.mv-bar { height: 6px; border-radius: 3px; background: #94a3b855; overflow: hidden; }
.mv-bar div { height: 100%; background: #f97316; }
.mv-facts { display: flex; flex-wrap: wrap; gap: .25rem 2rem; margin-top: .5rem; }
.mv-facts span span { opacity: .7; margin-right: .4rem; }
.mv-note { opacity: .75; margin: .5rem 0; }
.mv-preview { max-width: 1100px; overflow-x: auto; }
.mv-preview img { display: block; width: 100%; min-width: 640px; border-radius: 6px; }
.mv-preview video { display: block; width: 100%; max-height: 75vh; object-fit: contain; object-position: left;
  margin: .5rem 0; border-radius: 6px; }
.mv-table { overflow-x: auto; }
.mv-table table { border-collapse: collapse; }
.mv-table td, .mv-table th { padding: .25rem 1.5rem .25rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid #94a3b844; }
.mv-table td { min-width: 8rem; overflow-wrap: anywhere; }
.mv-table td:first-child { white-space: nowrap; }
.mv-table .mv-number { text-align: right; font-variant-numeric: tabular-nums; }
.mv-plots { display: grid !important; grid-template-columns: repeat(auto-fill, minmax(min(300px, 100%), 1fr)); }
.mv-plots > .block { min-height: 290px; }
.mv-plots .vega-embed { width: 100%; }
</style>"""
_LONGEST_VALUE = 120
_BADGES = {RunState.FINISHED: "mv-done", RunState.STOPPED: "", RunState.GONE: ""}


def status_html(name: str, run: RunSnapshot) -> str:
    """The run's name and state, how far it is, and its latest numbers."""
    badge = _BADGES.get(run.state, "mv-on")
    share = min(run.step / run.steps, 1.0) if run.steps else 0.0
    facts = "".join(
        f"<span><span>{escape(what)}</span> {escape(value)}</span>" for what, value in _facts(run)
    )
    note = ""
    if run.state is RunState.STARTING:
        note = "The first numbers come after the program is compiled and the first steps are done."
    elif run.state is RunState.STOPPED:
        note = "No process trains here now. Run the same command again to go on from the last checkpoint."
    elif run.state is RunState.EVALUATING:
        note = "The last step is done; the metrics are being computed."
    elif run.state is RunState.GONE:
        note = "The folder was moved or deleted; this is what was read before."
    if run.unread > 0.001:
        note += f" Reading metrics.jsonl: {1 - run.unread:.0%}."
    return (
        f'<div class="mv-run"><h3>{escape(name)}<span class="mv-badge {badge}">{run.state.value}</span></h3>'
        f'<div class="mv-bar"><div style="width:{share:.1%}"></div></div>'
        f'<div class="mv-facts">{facts}</div>'
        + (f'<div class="mv-note">{escape(note.strip())}</div>' if note else "")
        + "</div>"
    )


def no_runs_html() -> str:
    """What the tab says before there is a run."""
    return (
        '<div class="mv-run"><p>No run to watch yet. Start the page with the work folder of a run, or a folder of '
        "them, as <code>--workdir=DIR</code>; a run that begins there appears here by itself.</p></div>"
    )


def preview_html(place: int, steps: Sequence[int], sheet: bytes | None, clip: bytes | None) -> str:
    """The preview at a place, counted from 1: the clips side by side, and under them their contact sheet."""
    step = steps[place - 1]
    parts = [f"<b>Step {step:,}</b>, preview {place} of {len(steps)}"]
    if sheet is None and clip is None:
        parts.append(_note("This preview cannot be read; it may have been removed."))
    if clip is not None:
        parts.append(
            f'<video autoplay loop muted playsinline aria-label="Clips of step {step}" '
            f'src="data:video/mp4;base64,{base64.b64encode(clip).decode()}"></video>'
        )
    if sheet is not None:
        parts.append(
            f'<img alt="Contact sheet of step {step}" src="data:image/png;base64,{base64.b64encode(sheet).decode()}">'
        )
    return f'<div class="mv-preview">{"".join(parts)}</div>'


def no_preview_html(run: RunSnapshot) -> str:
    """When the first preview comes."""
    if run.is_active and run.preview_every and run.steps:
        return _note(f"The first preview comes at step {min(run.preview_every, run.steps):,}.")
    return _note("This run has left no previews.")


def scores_html(run: RunSnapshot) -> str:
    """metrics.json as a table."""
    if not run.scores:
        when = "at the end of the run" if run.is_active else "when a run ends"
        return _note(f"metrics.json is written {when}.")
    rows = [(_spaced(name), _number(value)) for name, value in run.scores.items()]
    return _table(("metric", "value"), rows, numbers=True)


def settings_html(run: RunSnapshot) -> str:
    """The settings that differ from the defaults."""
    if not run.changed:
        return _note("All settings are the defaults, or config.json cannot be read.")
    rows = [(path, _value(now), _value(before)) for path, (before, now) in run.changed.items()]
    return _table(("config", "this run", "default"), rows)


def duration(seconds: float) -> str:
    """A time as people say it: `40 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes // 60 % 24} h"


def _facts(run: RunSnapshot) -> Iterable[tuple[str, str]]:
    of = f" of {run.steps:,}" if run.steps else ""
    yield "step", f"{run.step:,}{of}"
    if run.seconds_left is not None:
        yield "time left", f"about {duration(run.seconds_left)}"
    if run.steps_per_second:
        yield "rate", f"{run.steps_per_second:.3g} steps/s"
    latest = run.latest
    if "loss" in latest:
        yield "loss", f"{latest['loss']:.4g}"
    if "data_wait_share" in latest:
        yield "waiting for data", f"{latest['data_wait_share']:.1%}"
    for name, what in (("device_memory_gib", "device"), ("host_memory_gib", "host")):
        if name in latest:
            yield f"{what} memory", f"{latest[name]:.3g} GiB"
    if run.silent_seconds is not None and run.step:
        yield "last report", f"{duration(run.silent_seconds)} ago"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]], *, numbers: bool = False) -> str:
    kind = ' class="mv-number"' if numbers else ""
    lines = []
    for first, *others in rows:
        cells = "".join(f"<td{kind}>{escape(cell)}</td>" for cell in others)
        lines.append(f"<tr><td>{escape(first)}</td>{cells}</tr>")
    first, *others = head
    heads = f"<th>{escape(first)}</th>" + "".join(
        f"<th{kind}>{escape(cell)}</th>" for cell in others
    )
    return f'<div class="mv-table"><table><tr>{heads}</tr>{"".join(lines)}</table></div>'


def _note(text: str) -> str:
    return f'<div class="mv-note">{escape(text)}</div>'


def _spaced(name: str) -> str:
    return name.replace(".", ": ").replace("_", " ")


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else _value(value)


def _value(value: Any) -> str:
    """A setting: short text as it is, everything else as JSON."""
    if value is None:
        return "not set"
    text = value if isinstance(value, str) and value else json.dumps(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]} …"
