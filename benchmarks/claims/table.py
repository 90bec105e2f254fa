"""The ablations' results as tables in markdown: mean and sample standard deviation over training seeds."""

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.claims.one_run import OneRun
from magicvideo_jax.training.metrics_log import read_lines


@dataclass(frozen=True)
class Column:
    """A number of the scores: its heading, its path in them, and how it is written."""

    heading: str
    path: tuple[str, ...]
    scale: float = 1.0
    digits: int = 1
    unit: str = ""
    of_latents: bool = False
    """Whether it compares models of the same latents alone."""

    def values(self, scores: Iterable[dict]) -> list[float]:
        """The number in each of the scores that have it."""
        found = []
        for one in scores:
            value = one
            for name in self.path:
                value = value.get(name, {})
            if isinstance(value, int | float):
                found.append(self.scale * value)
        return found

    def cell(self, scores: Iterable[dict]) -> str:
        """Mean and spread over the runs."""
        return mean_and_spread(self.values(scores), digits=self.digits, unit=self.unit)


def _fraction(heading: str, *path: str) -> Column:
    return Column(heading, path, scale=100, unit=" %")


SCORES = (
    _fraction("shape", "caption_accuracy", "shape"),
    _fraction("colour", "caption_accuracy", "colour"),
    _fraction("motion", "caption_accuracy", "motion"),
    _fraction("all three", "caption_accuracy", "all"),
    Column("held-out loss", ("held_out_loss", "mean"), digits=3, of_latents=True),
    Column("flicker", ("motion", "flicker"), digits=2),
)
SPEED = (
    Column("correlation", ("correlation",), digits=2),
    Column("speed at 6 fps over 9 fps", ("slow_over_fast",), digits=2),
)
DECODED = (*(_fraction(name, name) for name in ("shape", "colour", "motion")),
           _fraction("all three", "all"), Column("flicker", ("flicker",), digits=2))  # fmt: skip


def mean_and_spread(values: Sequence[float], *, digits: int, unit: str = "") -> str:
    """Text of a mean and, of several values, their sample standard deviation; a dash for none."""
    if not values:
        return "-"
    mean = f"{statistics.mean(values):.{digits}f}"
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean}{spread}{unit}"


def tables(runs: Sequence[OneRun]) -> Iterator[str]:
    """Lines of all tables, of the runs that are finished."""
    yield from score_table(runs)
    yield ""
    yield "Speed read back from clips of straight motion, each caption sampled at 6, 7, 8 and 9 frames a second:"
    yield ""
    yield from _reading_table(runs, "asked_speed", SPEED)
    yield ""
    yield "The reference's samples, decoded by the image VAE:"
    yield ""
    yield from _reading_table(runs, "image_decoder", DECODED)


def score_table(runs: Sequence[OneRun]) -> Iterator[str]:
    """A row for each ablation, with its steps and seconds of training, the least of its seeds, because other programs
    slow a run; those of other latents have no loss."""
    yield from _header("run", "what differs", *(column.heading for column in SCORES), "steps", "s")
    for name, of_name in _by_name(runs).items():
        ablation, before = of_name[0].ablation, of_name[0].before
        finished = [one for one in of_name if one.scores is not None]
        scores = [one.scores for one in finished]
        cells = [
            "-" if ablation.has_own_latents and column.of_latents else column.cell(scores)
            for column in SCORES
        ]
        steps = " + ".join(str(one.experiment.train.steps) for one in (*before, of_name[0]))
        seconds = [f"{min(map(training_seconds, finished)):.0f}"] if finished else ["-"]
        yield _row(name, ablation.sentence, *cells, steps, *seconds)


def training_seconds(one: OneRun) -> float:
    """Seconds of the steps of a run and those before it, without compiling, saving, previews and evaluation."""
    seconds, last = 0.0, 0
    for line in read_lines(one.workdir / "metrics.jsonl"):
        clips = (line["step"] - last) * one.experiment.train.batch_size
        seconds, last = seconds + clips / line["clips_per_second"], line["step"]
    return seconds + sum(training_seconds(before) for before in one.before)


def _reading_table(runs: Sequence[OneRun], name: str, columns: Sequence[Column]) -> Iterator[str]:
    yield from _header("run", *(column.heading for column in columns))
    for row, of_name in _by_name(runs).items():
        if name in of_name[0].ablation.readings:
            found = [value for one in of_name if (value := one.reading(name)) is not None]
            yield _row(row, *(column.cell(found) for column in columns))


def _by_name(runs: Sequence[OneRun]) -> dict[str, list[OneRun]]:
    """Reported runs that are scored or will be, by ablation."""
    found: dict[str, list[OneRun]] = {}
    for one in runs:
        if one.ablation.is_reported:
            found.setdefault(one.ablation.name, []).append(one)
    return found


def _header(*names: str) -> Iterator[str]:
    yield _row(*names)
    yield "|" + "---|" * len(names)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
