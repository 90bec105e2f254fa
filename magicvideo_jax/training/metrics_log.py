"""Metrics of training: metrics.jsonl, TensorBoard, and W&B where it is installed and asked for."""

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from magicvideo_jax.core.errors import UserError, WriteFailed
from magicvideo_jax.core.files import atomic_write, finite_or_null
from magicvideo_jax.runtime.progress import say

Line = dict[str, int | float]
"""A line of metrics.jsonl: `step`, and metrics by name."""


class MetricsLog:
    """One line of JSON per report, and the same numbers as TensorBoard scalars."""

    def __init__(
        self,
        workdir: Path,
        *,
        first: int = 0,
        wandb_project: str = "",
        config: dict[str, Any] | None = None,
    ):
        """Open the log of a run whose next step is `first`.

        Lines of later steps, of a run that died after its last save, are dropped. Errors:
        `UserError` where the log cannot be written or W&B is not installed.
        """
        # W&B first: it may be refused, and nothing is written then.
        self._wandb = _wandb(wandb_project, workdir, config) if wandb_project else None
        self._path = workdir / "metrics.jsonl"
        kept = [line for line in _lines_if_any(self._path) if line["step"] <= first]
        with atomic_write(self._path) as aside:
            aside.write_text("".join(map(_json, kept)))
        try:
            self._file = self._path.open("a")
        except OSError as error:
            raise self._failed(error) from error
        self._board = _TensorBoard(workdir / "tensorboard")

    def write(self, step: int, values: dict[str, float]) -> None:
        """Log `values` by name; names with a slash become groups in TensorBoard.

        Errors: `WriteFailed`.
        """
        try:
            self._file.write(_json({"step": step} | values))
            self._file.flush()
        except OSError as error:
            raise self._failed(error) from error
        self._board.write(step, values)
        if self._wandb is not None:
            self._wandb.log(values, step=step)

    def _failed(self, error: OSError) -> WriteFailed:
        return WriteFailed(f"{self._path} cannot be written: {error.strerror or error}")

    def close(self) -> None:
        """Close the files; a full disk was reported when a line did not fit."""
        with suppress(OSError):
            self._file.close()
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


class _TensorBoard:
    """Scalars for TensorBoard. A failed write is one line, and does not end the run.

    tensorboardX's own `SummaryWriter` writes in a thread, and blocks its caller for ever once that
    has failed.
    """

    def __init__(self, folder: Path):
        # Imported late: tensorboardX imports torch where torch is installed.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboardX.summary import scalar

        self._event, self._scalar = Event, scalar
        self._writer: Any = None
        try:
            folder.mkdir(exist_ok=True)
            self._writer = EventsWriter(str(folder / "events"))
        except OSError as error:
            self._give_up(error)

    def write(self, step: int, values: dict[str, float]) -> None:
        if self._writer is None:
            return
        try:
            for name, value in values.items():
                value = self._scalar(name, value)
                event = self._event(wall_time=time.time(), step=step, summary=value)
                self._writer.write_event(event)
            self._writer.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        say(f"TensorBoard gets no more metrics: {error.strerror or error}")
        self.close()

    def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with suppress(OSError):
                writer.close()


def summary(window: list[dict[str, Any]]) -> dict[str, float]:
    """Mean of each scalar over the steps of a window, and the number of skipped steps.

    A step whose loss is not finite is skipped, and not part of the mean. Losses by diffusion time
    are divided by their counts.
    """
    finite = [step for step in window if step["is_finite"]]
    values = {
        "skipped": float(len(window) - len(finite)),
        "skipped_in_a_row": float(max(step["skipped_in_a_row"] for step in window)),
    }
    if not finite:
        return values
    names = finite[0].keys() - {"is_finite", "skipped_in_a_row"}
    stacked = {
        name: np.stack([np.asarray(step[name]) for step in finite]) for name in sorted(names)
    }
    values |= {name: float(rows.mean()) for name, rows in stacked.items() if rows.ndim == 1}
    if "time_bin_loss" in stacked:
        losses, counts = stacked["time_bin_loss"].sum(0), stacked["time_bin_count"].sum(0)
        values |= {
            f"loss_by_time/{i}": float(loss / n)
            for i, (loss, n) in enumerate(zip(losses, counts, strict=True))
            if n
        }
    return values


def read_lines(path: Path) -> list[Line]:
    """Lines of metrics.jsonl, each with its `step`; one that a kill cut short is left out."""
    lines = []
    for text in path.read_text().splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict) and "step" in line:
            lines.append({name: value for name, value in line.items() if value is not None})
    return lines


def _lines_if_any(path: Path) -> list[Line]:
    try:
        return read_lines(path)
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): move it away or restore it") from None


def _json(line: dict[str, Any]) -> str:
    return json.dumps(finite_or_null(line), allow_nan=False) + "\n"


def _wandb(project: str, workdir: Path, config: dict[str, Any] | None) -> Any:
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            f"config.train.wandb_project={project}: wandb is not installed: pip install wandb, or leave it empty"
        ) from None
    return wandb.init(project=project, dir=str(workdir), config=config)
