"""The training step. Training stages differ only in the objective that it is given."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from magicvideo_jax.core.keys import key_for
from magicvideo_jax.core.tree import merge
from magicvideo_jax.core.types import Params
from magicvideo_jax.runtime.compilation import jit
from magicvideo_jax.training.gradient_norm import small_together
from magicvideo_jax.training.state import TrainState

Metrics = dict[str, Array]
StepNumber = int | Int[Array, ""]


@runtime_checkable
class Objective(Protocol):
    """Loss of a batch at a step, and further metrics, as a pure function of the parameters."""

    def __call__(
        self, params: Params, batch: Any, key: PRNGKeyArray, step: StepNumber, /
    ) -> tuple[Float[Array, ""], Metrics]: ...


def train_step(
    state: TrainState,
    batch: Any,
    *,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
    seed: int,
) -> tuple[TrainState, Metrics]:
    """Update the state by one batch.

    Where the loss or the gradient is not finite, only the step and the count of such steps change.
    Metrics are those of the objective, `loss`, `grad_norm`, `is_finite` and `skipped_in_a_row`.
    """
    key = key_for(seed, state.step, "train")
    (loss, metrics), grads = jax.value_and_grad(
        lambda params: objective(merge(params, state.frozen), batch, key, state.step), has_aux=True
    )(state.params)
    norm = optax.tree.norm(small_together(grads))
    is_finite = jnp.isfinite(loss) & jnp.isfinite(norm)

    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    # Warm-up (1 + n) / (10 + n): the average follows quickly at first, instead of remembering the
    # initial parameters.
    decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
    ema = jax.tree.map(lambda average, new: decay * average + (1 - decay) * new, state.ema, params)

    def if_finite(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda n, o: jnp.where(is_finite, n, o), new, old)

    after = TrainState(
        step=state.step + 1,
        params=if_finite(params, state.params),
        ema=if_finite(ema, state.ema),
        opt_state=if_finite(opt_state, state.opt_state),
        skipped_in_a_row=jnp.where(is_finite, 0, state.skipped_in_a_row + 1),
        frozen=state.frozen,
    )
    return after, metrics | {
        "loss": loss,
        "grad_norm": norm,
        "is_finite": is_finite,
        "skipped_in_a_row": after.skipped_in_a_row,
    }


def accumulate_gradients(objective: Objective, parts: int) -> Objective:
    """Objective that averages over `parts` equal microbatches, one after the other, to save
    memory.

    Each microbatch has a random key of its own. Microbatches are rematerialised, so that no
    forward pass is kept while another runs.
    """
    if parts == 1:
        return objective

    def averaged(
        params: Params, batch: Any, key: PRNGKeyArray, step: StepNumber, /
    ) -> tuple[Float[Array, ""], Metrics]:
        # Microbatch i takes every parts-th example, so that a sharded batch moves nothing between
        # devices.
        microbatches = jax.tree.map(
            lambda x: jnp.moveaxis(x.reshape(-1, parts, *x.shape[1:]), 1, 0), batch
        )
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(parts))
        evaluate = jax.checkpoint(lambda part, part_key: objective(params, part, part_key, step))
        losses, metrics = jax.lax.map(lambda x: evaluate(*x), (microbatches, keys))
        return losses.mean(), jax.tree.map(lambda m: m.mean(0), metrics)

    return averaged


class CompiledStep:
    """Training step that is compiled once for each batch shape.

    The state is donated, but on CPU, and keeps its shardings; metrics are replicated on all
    devices.
    """

    def __init__(self, step: Callable[..., Any], state: TrainState):
        shardings = jax.tree.map(lambda x: x.sharding, state)
        self._mesh = getattr(state.step.sharding, "mesh", None)
        (platform,) = {device.platform for device in state.step.sharding.device_set}
        self._step = jit(
            step,
            platform=platform,
            # XLA:CPU copies parameters and moments before it updates them in place, into memory
            # that it takes anew for every step: three times the time of an update.
            donate_argnums=() if platform == "cpu" else 0,
            out_shardings=(shardings, state.step.sharding),
        )
        self._programs: dict[Any, Any] = {}

    def __call__(self, state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        return self.program(state, batch)(state, batch)

    def trace(self, state: TrainState, batch: Any) -> Any:
        """Trace the step for these shapes: gives `.jaxpr` and `.lower().compile()`."""
        # `parallel.constraints` reads the mesh while tracing.
        with jax.set_mesh(self._mesh) if self._mesh else nullcontext():
            return self._step.trace(state, batch)

    def program(self, state: TrainState, batch: Any) -> Any:
        """Compiled step for these shapes."""
        shapes = tuple((x.shape, x.dtype) for x in jax.tree.leaves(batch))
        if shapes not in self._programs:
            self._programs[shapes] = self.trace(state, batch).lower().compile()
        return self._programs[shapes]
