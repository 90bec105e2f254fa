"""Checkpoints: state, data position and config per step (Orbax), and the frozen networks once.

`WORKDIR/checkpoints/STEP` is written in the background and gets its checksums before its name
(core/checksums.py): a folder of that name is complete, or was damaged later. `WORKDIR/frozen` is
written before step 0.
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
from magicvideo_jax.training.integrity import (
    WITHOUT_CHECKSUM,
    clear_unfinished,
    newest_valid_step,
)
from magicvideo_jax.training.state import TrainState

FROZEN = "frozen"

_LIBRARY_ERRORS = (OSError, ValueError, KeyError, RuntimeError)
"""What Orbax and TensorStore raise; JAX's own errors are `RuntimeError`s."""


class Saved:
    """Reads what a run has saved, even while it goes on, and changes nothing.

    Corrupt checkpoints are logged and passed over.
    """

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
        """The newest valid step, determined once: the run may go on meanwhile."""
        return processes.broadcast_from_leader(
            lambda: newest_valid_step(self._folder, sets_aside=False, under="ema/")
        )

    def restore_ema(self, places: Params) -> Params:
        """The newest average of the trained parameters; `places` are shapes with shardings."""
        return self._restore(self._averaged_step, ema=ocp.args.StandardRestore(places))["ema"]

    def restore_frozen(self, places: Params) -> Params:
        """The frozen networks; `places` are shapes with shardings.

        Errors: `UserError` names a damaged file.
        """
        if not places:
            return {}
        processes.broadcast_from_leader(self._check_frozen)
        with _reading(self._frozen), ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(self._frozen, places)

    def _restore(self, step: int | None, **items: Any) -> Any:
        if step is None:
            raise UserError(f"{self._folder}: no finished checkpoint here; train first")
        path = self._folder / str(step)
        with _reading(path), ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            return checkpointer.restore(path, args=ocp.args.Composite(**items))

    def _check_frozen(self) -> None:
        found = find_corruption(self._frozen)
        if found is not None:
            raise UserError(
                f"{self._frozen} is damaged: {found}; bring back a copy of that file, or remove the folder: then, when "
                "training goes on, its networks are read from config.init_from again"
            )


class Checkpoints(Saved):
    """Reads and writes a run's checkpoints (one instance per process).

    On opening, unfinished saves are removed and corrupt ones renamed; both are logged.
    """

    def __init__(self, workdir: Path, *, keep_last: int = 2, keep_every: int = 0):
        """Open the checkpoints of `workdir`.

        The last `keep_last` are kept, and those of every multiple of `keep_every` steps (0: none).
        Errors: `UserError` where every checkpoint is damaged, or the folder cannot be read or
        written.
        """
        super().__init__(workdir)
        _quieten()
        self._newest: int | None = processes.broadcast_from_leader(self._tidy)
        for_good = [EveryNSteps(keep_every)] if keep_every else []
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy([LatestN(keep_last), *for_good]),
            enable_async_checkpointing=True,
            lightweight_initialize=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._write_checksums),
        )
        try:
            self._manager = ocp.CheckpointManager(self._folder, options=options)
        except _LIBRARY_ERRORS as error:
            raise UserError(f"{self._folder} cannot be written: {_cause(error)}") from error
        self._saving = 0
        self._waiter, self._pending = ThreadPoolExecutor(1, "saved"), Future[None]()

    def _tidy(self) -> int | None:
        for folder in (self._folder, self._folder.parent):
            clear_unfinished(folder)
        return newest_valid_step(self._folder, sets_aside=True)

    def latest(self) -> int | None:
        """Step of the newest valid checkpoint when this was opened, or None."""
        return self._newest

    def save(
        self, step: int, state: TrainState, *, position: dict[str, Any], config: dict[str, Any]
    ) -> None:
        """Save state, data position and config as they are before step `step`.

        A checkpoint that exists is left alone. Returns when the state is copied from the devices.
        Errors: `WriteFailed` if the previous save has failed.
        """
        if step in self._manager.all_steps():
            return
        with self._saving_failures():
            self._manager.wait_until_finished()
        self._saving = step
        with self._saving_failures():
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

    def _write_checksums(self) -> None:
        """Callback in the leader: all parts are written, and the folder has no name yet."""
        (unnamed,) = self._folder.glob(f"{self._saving}.*")
        write_checksums(unnamed, without=WITHOUT_CHECKSUM)

    def check(self) -> None:
        """Raise `WriteFailed` if a save has failed meanwhile. Does not wait."""
        if self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Wait for the last save. Errors: `WriteFailed` if it failed."""
        with self._saving_failures():
            self._manager.wait_until_finished()
        self._pending = Future[None]()

    def close(self) -> None:
        """Wait for the last save and release everything. Errors: `WriteFailed` if it failed."""
        with self._saving_failures():
            self._manager.close()
        self._waiter.shutdown()

    @contextmanager
    def _saving_failures(self) -> Iterator[None]:
        try:
            yield
        except _LIBRARY_ERRORS as error:
            raise WriteFailed(
                f"{self._folder}: step {self._saving} could not be saved ({_cause(error)}); the checkpoints before it "
                "are intact: mend that, and run the same command again"
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
        """Whether the frozen networks are in the work folder."""
        return processes.broadcast_from_leader(self._frozen.exists)

    def save_frozen(self, frozen: Params) -> None:
        """Save the frozen networks, once, before step 0. Errors: `WriteFailed`.

        Those of a run that ended before its first step are replaced.
        """
        if not frozen:
            return
        with self._saving_failures():
            options = ocp.AsyncOptions(post_finalization_callback=self._write_frozen_checksums)
            with ocp.StandardCheckpointer(async_options=options) as checkpointer:
                checkpointer.save(self._frozen, frozen, force=True)

    def _write_frozen_checksums(self) -> None:
        (unnamed,) = self._frozen.parent.glob(f"{FROZEN}.*")
        write_checksums(unnamed, without=WITHOUT_CHECKSUM)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what a library raises into one line: intact files that do not fit the run."""
    try:
        yield
    except _LIBRARY_ERRORS as error:
        raise UserError(
            f"{path} cannot be restored into this run ({_cause(error)}); if the config or the code has changed since, "
            "go on with those that saved it"
        ) from error


def _paths(folder: Path) -> set[str]:
    """Dotted paths of the arrays of a saved tree, without reading them."""
    tree = ocp.StandardCheckpointHandler().metadata(epath.Path(folder))
    leaves = jax.tree_util.tree_leaves_with_path(getattr(tree, "tree", tree))
    return {".".join(entry.key for entry in path) for path, _ in leaves}


def _resumed(state: TrainState) -> dict[str, Any]:
    """The fields that are saved as the item `state`: all but `frozen` and `ema`."""
    return {name: value for name, value in state._asdict().items() if name not in ("frozen", "ema")}


def _cause(error: Exception) -> str:
    """The system's name of an error whose code is in TensorStore's long message, or a line."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code:
        return os.strerror(int(code[1]))
    return re.split(r" \[tensorstore_spec|\n", str(error))[0][:300]


def _quieten() -> None:
    """Silence what Orbax and TensorStore log when a save fails: tracebacks, a closed event loop.

    The failure itself is raised, and reported as one line.
    """
    logging.getLogger("absl").addFilter(_is_no_failure_of_orbax)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _report_unraisable


def _is_no_failure_of_orbax(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR or "/orbax/" not in record.pathname


def _report_unraisable(unraisable: Any) -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)
