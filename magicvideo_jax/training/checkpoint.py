"""Checkpoints: one atomic composite of state, data position and config (Orbax), and the frozen networks once.

`WORKDIR/checkpoints/STEP` is written in the background and gets its checksums before its name
(core/checksums.py): a folder of that name is whole, or damaged since. `WORKDIR/frozen` is written before step 0.
"""

import logging
import os
import re
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, EveryNSteps, LatestN

from magicvideo_jax.core.checksums import find_corruption, write_checksums
from magicvideo_jax.core.errors import UserError, WriteFailed
from magicvideo_jax.core.types import Params
from magicvideo_jax.runtime import processes
from magicvideo_jax.training.integrity import UNSEALED, clear_unfinished, newest_valid_step
from magicvideo_jax.training.state import TrainState

FROZEN = "frozen"


class Saved:
    """What a run has saved, to be read while it may go on: nothing is changed. Damaged checkpoints are named and passed
    over."""

    def __init__(self, workdir: Path):
        self._folder, self._frozen = workdir.absolute() / "checkpoints", workdir.absolute() / FROZEN

    def parameter_paths(self) -> tuple[set[str], set[str]]:
        """Dotted paths of the parameters in the newest average, and of the frozen ones."""
        step = self._averaged_step
        if step is None:
            raise UserError(f"{self._folder}: no finished checkpoint here; train first")
        averaged = _paths(self._folder / str(step) / "ema")
        return averaged, _paths(self._frozen) if self._frozen.is_dir() else set()

    @cached_property
    def _averaged_step(self) -> int | None:
        """The newest valid step. Determined once: the run may go on, and its average must be read from one step."""
        return processes.broadcast_from_leader(
            lambda: newest_valid_step(self._folder, sets_aside=False, under="ema/")
        )

    def restore_ema(self, places: Params) -> Params:
        """The newest average of the trained parameters; `places` are shapes with shardings."""
        return self._restore(self._averaged_step, ema=ocp.args.StandardRestore(places))["ema"]

    def restore_frozen(self, places: Params) -> Params:
        """The frozen networks; `places` are shapes with shardings. Errors: `UserError` names a damaged file."""
        if not places:
            return {}
        processes.broadcast_from_leader(self._check_frozen)
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(self._frozen, places)

    def _restore(self, step: int | None, **items: Any) -> Any:
        if step is None:
            raise UserError(f"{self._folder}: no finished checkpoint here; train first")
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            return checkpointer.restore(self._folder / str(step), args=ocp.args.Composite(**items))

    def _check_frozen(self) -> None:
        what = find_corruption(self._frozen)
        if what is not None:
            raise UserError(
                f"{self._frozen} is damaged: {what}; bring back a copy of that file, or remove the folder: then, when "
                "training goes on, its networks are read from config.init_from again"
            )


class Checkpoints(Saved):
    """Of the one run in a work folder, on every host. What is damaged or unfinished is named, and out of the way, from
    the start."""

    def __init__(self, workdir: Path, *, keep_last: int = 2, keep_every: int = 0):
        """The last `keep_last` stay, and every multiple of `keep_every` steps (none if 0). Errors: `UserError` where
        every checkpoint is damaged."""
        super().__init__(workdir)
        _quieten()
        self._newest: int | None = processes.broadcast_from_leader(self._tidied)
        for_good = [EveryNSteps(keep_every)] if keep_every else []
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy([LatestN(keep_last), *for_good]),
            enable_async_checkpointing=True,
            lightweight_initialize=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
        )
        self._manager = ocp.CheckpointManager(self._folder, options=options)
        self._saving = 0
        self._waiter, self._pending = ThreadPoolExecutor(1, "saved"), Future[None]()

    def _tidied(self) -> int | None:
        for folder in (self._folder, self._folder.parent):
            clear_unfinished(folder)
        return newest_valid_step(self._folder, sets_aside=True)

    def latest(self) -> int | None:
        """The newest whole step when this was opened, or none."""
        return self._newest

    def save(
        self, step: int, state: TrainState, *, position: dict[str, Any], config: dict[str, Any]
    ) -> None:
        """State, data position and config of the moment before step `step`; a step already there is left alone. Returns
        when they are copied from the devices. Errors: `WriteFailed` if the save before has failed."""
        if step in self._manager.all_steps():
            return
        with self._failing():
            self._manager.wait_until_finished()
        self._saving = step
        with self._failing():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(_resumed(state)),
                    ema=ocp.args.StandardSave(state.ema),
                    position=ocp.args.JsonSave(position),
                    config=ocp.args.JsonSave(config),
                ),
            )
        self._pending = self._waiter.submit(self._manager.wait_until_finished)

    def _seal(self) -> None:
        """On the first host, when all have written theirs, and before the folder gets its name."""
        (unnamed,) = self._folder.glob(f"{self._saving}.*")
        write_checksums(unnamed, without=UNSEALED)

    def check(self) -> None:
        """Waits for nothing. Errors: `WriteFailed` if a save has failed meanwhile."""
        if self._pending.done():
            self.wait()

    def wait(self) -> None:
        """For the last save. Errors: `WriteFailed` if it failed."""
        with self._failing():
            self._manager.wait_until_finished()
        self._pending = Future[None]()

    def close(self) -> None:
        """Waits for the last save. Errors: `WriteFailed` if it failed."""
        with self._failing():
            self._manager.close()
        self._waiter.shutdown()

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            raise WriteFailed(
                f"{self._folder}: step {self._saving} could not be saved ({_cause(error)}); the checkpoints before it "
                "are whole: mend that, and run the same command again"
            ) from error

    def restore(self, places: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The latest state, and the position in the data; `places` are shapes with shardings."""
        restored = self._restore(
            self._newest,
            state=ocp.args.StandardRestore(_resumed(places)),
            ema=ocp.args.StandardRestore(places.ema),
            position=ocp.args.JsonRestore(),
        )
        state = places._replace(
            **restored["state"], ema=restored["ema"], frozen=self.restore_frozen(places.frozen)
        )
        return state, restored["position"]

    def has_frozen(self) -> bool:
        return processes.broadcast_from_leader(self._frozen.exists)

    def save_frozen(self, frozen: Params) -> None:
        """Once, before step 0: no checkpoint repeats them. Those of a run that ended before its first are replaced."""
        if not frozen:
            return
        with self._failing():
            sealed = ocp.AsyncOptions(post_finalization_callback=self._seal_frozen)
            with ocp.StandardCheckpointer(async_options=sealed) as checkpointer:
                checkpointer.save(self._frozen, frozen, force=True)

    def _seal_frozen(self) -> None:
        (unnamed,) = self._frozen.parent.glob(f"{FROZEN}.*")
        write_checksums(unnamed, without=UNSEALED)


def _paths(folder: Path) -> set[str]:
    """Dotted paths of the arrays of a saved tree, without reading them."""
    tree = ocp.StandardCheckpointHandler().metadata(epath.Path(folder))
    leaves = jax.tree_util.tree_leaves_with_path(getattr(tree, "tree", tree))
    return {".".join(entry.key for entry in path) for path, _ in leaves}


def _resumed(state: TrainState) -> dict[str, Any]:
    """What is neither frozen nor an item of its own."""
    return {name: value for name, value in state._asdict().items() if name not in ("frozen", "ema")}


def _cause(error: Exception) -> str:
    """TensorStore tells all it knows, in a thousand words; of the system's errors the name is enough."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return (
        os.strerror(int(code[1]))
        if code
        else re.split(r" \[tensorstore_spec|\n", str(error))[0][:300]
    )


def _quieten() -> None:
    """When a save fails Orbax logs tracebacks, and TensorStore calls an event loop that Orbax has closed. The failure
    itself reaches us as an exception, and the user as one line."""
    logging.getLogger("absl").addFilter(_is_no_failure_of_orbax)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _say_unraisable


def _is_no_failure_of_orbax(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR or "/orbax/" not in record.pathname


def _say_unraisable(unraisable: Any) -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)
