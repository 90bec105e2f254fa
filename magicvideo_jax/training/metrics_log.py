"""What training says of itself: metrics.jsonl, TensorBoard, and W&B where it is installed and asked for."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter

from magicvideo_jax.core.errors import UserError, WriteFailed


class MetricsLog:
    """One line of JSON a report, and the same numbers as TensorBoard scalars."""

    def __init__(
        self,
        workdir: Path,
        *,
        first: int = 0,
        wandb_project: str = "",
        config: dict[str, Any] | None = None,
    ):
        """`first` is the step to come: lines of later ones, of a run that died after its last save, are dropped."""
        self._wandb = (
            _wandb(wandb_project, workdir, config) if wandb_project else None
        )  # first: it may be refused
        lines = workdir / "metrics.jsonl"
        kept = (
            [line for line in read_lines(lines) if line["step"] <= first] if lines.exists() else []
        )
        self._lines = lines.open("w")
        for line in kept:
            self._write(line)
        self._board = SummaryWriter(str(workdir / "tensorboard"))

    def write(self, step: int, values: dict[str, float]) -> None:
        """`values` by name; names with a slash become groups in TensorBoard."""
        self._write({"step": step} | values)
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(values, step=step)

    def _write(self, line: dict[str, Any]) -> None:
        try:
            self._lines.write(json.dumps(line, allow_nan=False) + "\n")
            self._lines.flush()
        except OSError as error:
            raise WriteFailed(
                f"{self._lines.name} cannot be written: {error.strerror or error}"
            ) from error

    def close(self) -> None:
        with suppress(OSError):  # of a full disk, which was said when a line did not fit
            self._lines.close()
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def summary(window: list[dict[str, Any]]) -> dict[str, float]:
    """The mean of each scalar over the steps of a window that were finite, and how many were skipped.

    Losses by diffusion time are divided by their counts.
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


def read_lines(path: Path) -> list[dict[str, float]]:
    """metrics.jsonl, of an interrupted run too: a line cut short is left out."""
    lines = []
    for line in path.read_text().splitlines():
        try:
            lines.append(json.loads(line, parse_int=float))
        except json.JSONDecodeError:
            continue
    return lines


def _wandb(project: str, workdir: Path, config: dict[str, Any] | None) -> Any:
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError(
            f"train.wandb_project={project}: wandb is not installed: pip install wandb, or leave it empty"
        ) from None
    return wandb.init(project=project, dir=str(workdir), config=config)
