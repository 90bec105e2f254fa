"""Checkpoints: one atomic composite of state, data position and config (Orbax), and the frozen networks once."""

from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.protocols import Params
from magicvideo_jax.training.state import TrainState

KEEP_LAST = 2


class Checkpoints:
    """`WORKDIR/checkpoints/STEP`, written in the background, and `WORKDIR/frozen`, written before step 0."""

    def __init__(self, workdir: Path):
        self._frozen = workdir.absolute() / "frozen"
        options = ocp.CheckpointManagerOptions(max_to_keep=KEEP_LAST, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(workdir.absolute() / "checkpoints", options=options)

    def latest(self) -> int | None:
        """The newest finished step, or none."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, *, position: dict[str, Any], config: dict[str, Any]) -> None:
        """State, data position and config of the moment before step `step`; a step already there is left alone."""
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(_resumed(state)),
                ema=ocp.args.StandardSave(state.ema),
                position=ocp.args.JsonSave(position),
                config=ocp.args.JsonSave(config),
            ),
        )

    def restore(self, places: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The latest state, and the position in the data; `places` are shapes with shardings."""
        restored = self._restore(
            state=ocp.args.StandardRestore(_resumed(places)),
            ema=ocp.args.StandardRestore(places.ema),
            position=ocp.args.JsonRestore(),
        )
        state = places._replace(**restored["state"], ema=restored["ema"], frozen=self.restore_frozen(places.frozen))
        return state, restored["position"]

    def restore_ema(self, places: Params) -> Params:
        """The latest average of the trained parameters; `places` are shapes with shardings."""
        return self._restore(ema=ocp.args.StandardRestore(places))["ema"]

    def _restore(self, **items: Any) -> Any:
        step = self._manager.latest_step()
        if step is None:
            raise UserError(f"{self._manager.directory}: no finished checkpoint here; train first")
        return self._manager.restore(step, args=ocp.args.Composite(**items))

    def save_frozen(self, frozen: Params) -> None:
        """Once, before step 0: no checkpoint repeats them. Those of a run that ended before its first are replaced."""
        if frozen:
            with ocp.StandardCheckpointer() as checkpointer:
                checkpointer.save(self._frozen, frozen, force=True)

    def restore_frozen(self, places: Params) -> Params:
        """What `save_frozen` wrote; `places` are shapes with shardings."""
        if not places:
            return {}
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(self._frozen, places)

    def close(self) -> None:
        """Waits for the last save."""
        self._manager.wait_until_finished()
        self._manager.close()


def _resumed(state: TrainState) -> dict[str, Any]:
    """What is neither frozen nor an item of its own."""
    return {name: value for name, value in state._asdict().items() if name not in ("frozen", "ema")}
