"""The train step, on objectives of a few numbers."""

import struct
import sys
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tensorboardX.proto.event_pb2 import Event

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.keys import key_for
from magicvideo_jax.core.tree import flatten
from magicvideo_jax.runtime.traced_gpu import tracing_for_gpu
from magicvideo_jax.training.gradient_norm import clip_by_norm, small_together
from magicvideo_jax.training.metrics_log import MetricsLog, summary
from magicvideo_jax.training.objectives import DenoisingConfig, joint_objective, stratified_times
from magicvideo_jax.training.optimizer import (
    Freeze,
    KernelUpdate,
    OptimConfig,
    is_trained,
    make_optimizer,
)
from magicvideo_jax.training.state import fresh_state
from magicvideo_jax.training.step import CompiledStep, accumulate_gradients, train_step


def objective(params, batch, key, step):
    """Least squares with a frozen offset; no noise, so that equal batches give equal steps."""
    del key
    error = batch["x"] @ params["net"]["w"] + params["frozen"]["b"] - batch["y"]
    return jnp.square(error).mean(), {"error": jnp.abs(error).mean()}


def start(optimizer):
    state = fresh_state({"net": {"w": jnp.ones((3, 1))}}, optimizer)
    return state._replace(frozen={"frozen": {"b": jnp.full((1, 1), 2.0)}})


def batch_of(seed, rows=8):
    rng = np.random.default_rng(seed)
    return {
        "x": rng.standard_normal((rows, 3), np.float32),
        "y": rng.standard_normal((rows, 1), np.float32),
    }


def stepper(optimizer, objective=objective):
    return jax.jit(
        partial(train_step, objective=objective, optimizer=optimizer, ema_decay=0.9, seed=0)
    )


def test_a_step_is_the_optimizer_s_own_update():
    optimizer = make_optimizer(OptimConfig(lr=1e-2, warmup=1), steps=10)
    state, batch = start(optimizer), batch_of(0)
    grads = jax.grad(lambda p: objective(p | state.frozen, batch, None, 0)[0])(state.params)
    updates, _ = optimizer.update(grads, state.opt_state, state.params)
    after, metrics = stepper(optimizer)(state, batch)
    expected = optax.apply_updates(state.params, updates)
    np.testing.assert_allclose(after.params["net"]["w"], expected["net"]["w"], rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(grads), rtol=1e-6)
    np.testing.assert_array_equal(after.frozen["frozen"]["b"], state.frozen["frozen"]["b"])


def test_frozen_parameters_have_neither_moments_nor_average():
    state = start(make_optimizer(OptimConfig(warmup=2), steps=10))
    assert list(flatten(state.ema)) == ["net.w"]
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.shape == (1, 1)]
    assert not moments


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(bad):
    optimizer = make_optimizer(OptimConfig(lr=1e-2, warmup=1), steps=10)
    step, state = stepper(optimizer), start(optimizer)
    state, _ = step(state, batch_of(0))
    poisoned = batch_of(1)
    poisoned["x"][0, 0] = bad
    after, metrics = step(state, poisoned)
    for name in ("params", "ema", "opt_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(state, name))
    assert (after.step, metrics["skipped_in_a_row"]) == (2, 1)
    assert step(after, poisoned)[1]["skipped_in_a_row"] == 2
    assert step(after, batch_of(2))[1]["skipped_in_a_row"] == 0


def test_accumulated_parts_make_the_same_step():
    optimizer = make_optimizer(OptimConfig(lr=1e-2, warmup=1), steps=10)
    batch = batch_of(0)
    whole, _ = stepper(optimizer)(start(optimizer), batch)
    parts, metrics = stepper(optimizer, accumulate_gradients(objective, 4))(start(optimizer), batch)
    np.testing.assert_allclose(parts.params["net"]["w"], whole.params["net"]["w"], rtol=1e-6)
    assert metrics["error"].shape == ()


def test_gradients_are_clipped_to_the_global_norm():
    optimizer = optax.chain(make_optimizer(OptimConfig(grad_clip_norm=1e-3, warmup=2), steps=10))
    clipped, _ = optax.clip_by_global_norm(1e-3).update({"w": jnp.full(3, 9.0)}, optax.EmptyState())
    state = optimizer.init({"w": jnp.zeros(3)})
    _, state = optimizer.update({"w": jnp.full(3, 9.0)}, state, {"w": jnp.zeros(3)})
    moment = next(leaf for leaf in jax.tree.leaves(state) if leaf.shape == (3,))
    np.testing.assert_allclose(moment, 0.1 * clipped["w"], rtol=1e-5)


def test_small_gradients_are_one_array_in_the_norm_on_gpus():
    """Half are small in a U-Net; each would be a kernel."""
    gradients = {f"bias_{i}": jnp.full(8, float(i)) for i in range(5)} | {"kernel": jnp.ones(2**14)}

    def norm(gradients):
        return optax.tree.norm(small_together(gradients))

    def sums():
        return str(jax.make_jaxpr(lambda g: norm(g))(gradients)).count("reduce_sum")

    optimizer = optax.clip_by_global_norm(2.0)
    expected = norm(gradients), optimizer.update(gradients, optax.EmptyState())[0]
    assert sums() == 6
    with tracing_for_gpu("9.0"):
        assert sums() == 2
        optimizer = clip_by_norm(2.0)
        seen = norm(gradients), optimizer.update(gradients, optimizer.init(gradients))[0]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), seen, expected)


def test_a_step_compiles_once_for_a_shape():
    optimizer = make_optimizer(OptimConfig(warmup=2), steps=10)
    traced = []

    def watched(params, batch, key, step):
        traced.append(1)
        return objective(params, batch, key, step)

    state = start(optimizer)
    step = CompiledStep(
        partial(train_step, objective=watched, optimizer=optimizer, ema_decay=0.9, seed=0), state
    )
    for seed in range(4):
        state, _ = step(state, batch_of(seed))
    assert len(traced) == 1
    for rows in (4, 8, 4):
        state, _ = step(state, batch_of(0, rows=rows))
    assert len(traced) == 2


def test_without_warm_up_the_first_step_moves():
    optimizer = make_optimizer(OptimConfig(lr=1e-2, warmup=0), steps=10)
    after, _ = stepper(optimizer)(start(optimizer), batch_of(0))
    assert (after.params["net"]["w"] != 1).all()


def test_a_warm_up_longer_than_the_run_is_refused():
    with pytest.raises(UserError, match=r"optim\.warmup=10"):
        make_optimizer(OptimConfig(warmup=10), steps=10)


def test_a_joint_batch_weighs_its_two_parts():
    def part(value):
        return lambda params, batch, key, step: (
            jnp.float32(value) * batch,
            {"loss_of": jnp.float32(value)},
        )

    loss, metrics = joint_objective(part(2), part(10), DenoisingConfig(image_share=0.25))(
        {}, {"video": 1, "image": 1}, key_for(0, 0, "x"), 0
    )
    assert (loss, metrics["video_loss"], metrics["image_loss"]) == (4, 2, 10)


def test_a_report_leaves_out_steps_that_were_not_finite():
    def step(loss, is_finite):
        return {
            "loss": np.float32(loss),
            "is_finite": np.bool_(is_finite),
            "skipped_in_a_row": np.int32(not is_finite),
            "time_bin_loss": np.array([loss, 0], np.float32),
            "time_bin_count": np.array([1, 0], np.float32),
        }

    values = summary([step(1, True), step(np.nan, False), step(3, True)])
    assert values == {"loss": 2, "skipped": 1, "skipped_in_a_row": 1, "loss_by_time/0": 2}
    assert summary([step(np.nan, False)]) == {"skipped": 1, "skipped_in_a_row": 1}


@pytest.mark.parametrize(
    ("path", "trained_in"),
    [
        ("mid_block.stages.0.resnet.adaptor1.scale", {Freeze.ALL, Freeze.TEMPORAL, Freeze.ADAPTOR}),
        (
            "down_blocks.0.stages.1.transformer.transformer_blocks.0.adaptor.shift",
            {Freeze.ALL, Freeze.TEMPORAL, Freeze.ADAPTOR},
        ),
        ("down_blocks.0.stages.1.transformer.temporal.to_q.kernel", {Freeze.ALL, Freeze.TEMPORAL}),
        ("fps_embedding.linear_1.kernel", {Freeze.ALL, Freeze.TEMPORAL}),
        ("down_blocks.0.stages.1.resnet.conv1.kernel", {Freeze.ALL}),
        ("decoder.temporal.layers.0.to_q.kernel", {Freeze.ALL, Freeze.TEMPORAL, Freeze.DECODER}),
        ("decoder.conv_in.kernel", {Freeze.ALL, Freeze.DECODER}),
        ("encoder.conv_in.kernel", {Freeze.ALL}),
        ("mid_block.motion_module.proj_in.kernel", {Freeze.ALL, Freeze.TEMPORAL}),
        ("mid_block.attn1.to_q.lora_down", {Freeze.ALL, Freeze.LORA}),
    ],
)
def test_freeze_modes(path, trained_in):
    assert {freeze for freeze in Freeze if is_trained(freeze, path)} == trained_in


def test_times_are_uniform_and_every_batch_has_of_all():
    drawn = np.stack([stratified_times(jax.random.key(i), 8, 1000) for i in range(400)])
    assert (drawn.min(), drawn.max()) >= (0, 990)
    assert drawn.max() < 1000
    np.testing.assert_array_equal(np.sort(drawn // 125, axis=1), np.tile(np.arange(8), (400, 1)))
    assert abs(drawn[:, 0].mean() - 500) < 50  # each example sees all times


def test_shifted_times_have_more_noise():
    """Half of the times lie above k / (k + 1)."""
    drawn = np.concatenate(
        [stratified_times(jax.random.key(i), 8, 1000, shift=3.0) for i in range(400)]
    )
    assert abs(np.median(drawn) - 750) < 10
    assert drawn.max() < 1000


def test_temporal_parts_may_have_a_rate_of_their_own():
    """Adam's first step is the rate in the gradient's direction, whatever the gradient's size."""
    params = {"unet": {"conv": {"kernel": jnp.ones(3)}, "temporal": {"kernel": jnp.ones(3)}}}
    config = OptimConfig(lr=1e-3, temporal_lr=1e-2, warmup=0, weight_decay=0.0)
    optimizer = make_optimizer(config, steps=10)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    np.testing.assert_allclose(updates["unet"]["conv"]["kernel"], -1e-3, rtol=1e-4)
    np.testing.assert_allclose(updates["unet"]["temporal"]["kernel"], -1e-2, rtol=1e-4)


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"temporal_lr": -1e-3}, {"warmup": 10}])
def test_rates_out_of_range_are_named(wrong):
    with pytest.raises(UserError, match=f"{next(iter(wrong))}="):
        make_optimizer(OptimConfig(**wrong), steps=10)


def test_weight_decay_may_spare_all_but_kernels():
    """AdamW without a gradient moves what decays by lr x weight_decay, and nothing else."""
    names = ("kernel", "bias", "scale", "embedding", "positions")
    params = {"unet": {"layer": {name: jnp.ones(3) for name in names}}}
    still = jax.tree.map(jnp.zeros_like, params)
    for kernels_only in (False, True):
        config = OptimConfig(lr=1e-2, warmup=0, weight_decay=0.1, decay_kernels_only=kernels_only)
        optimizer = make_optimizer(config, steps=10)
        updates, _ = optimizer.update(still, optimizer.init(params), params)
        moved = {name for name, leaf in updates["unet"]["layer"].items() if np.any(leaf)}
        assert moved == ({"kernel"} if kernels_only else set(names))
        np.testing.assert_allclose(updates["unet"]["layer"]["kernel"], -1e-3, rtol=1e-5)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (3, 3, 2, 4)])
def test_muon_moves_every_direction_of_a_kernel_alike(shape):
    rng = np.random.default_rng(0)
    leaves = {"kernel": shape, "bias": shape[-1:], "embedding": shape[-2:]}
    params = {
        "unet": {"layer": {name: jnp.array(rng.normal(size=s)) for name, s in leaves.items()}}
    }
    grads = jax.tree.map(lambda x: jnp.array(rng.normal(size=x.shape)), params)
    config = OptimConfig(lr=1e-2, warmup=0, weight_decay=0.1, grad_clip_norm=1e9)

    def moved(optimizer):
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        return updates["unet"]["layer"]

    adamw = moved(optax.adamw(1e-2, weight_decay=0.1, nesterov=True))
    muon = moved(make_optimizer(replace(config, kernels=KernelUpdate.MUON), steps=10))
    for name in ("bias", "embedding"):
        np.testing.assert_allclose(muon[name], adamw[name], rtol=1e-5)
    decayed = -1e-3 * params["unet"]["layer"]["kernel"]
    moved_by = np.asarray(muon["kernel"] - decayed).reshape(-1, shape[-1])
    assert (
        np.sum(moved_by * np.asarray(grads["unet"]["layer"]["kernel"]).reshape(-1, shape[-1])) < 0
    )
    sizes = np.linalg.svd(moved_by, compute_uv=False)
    # Three iterations of Newton-Schulz bring them near each other, and not nearer.
    assert sizes.max() / sizes.min() < 2.5
    rms = np.sqrt(np.mean(moved_by**2))
    np.testing.assert_allclose(rms, 0.2 * 1e-2, rtol=0.35)


def test_reports_reach_tensorboard_and_wandb(tmp_path, monkeypatch):
    """Scalars are read back from the event file; W&B, which is not installed, is a recorder here."""
    logged = []

    class Run:
        def log(self, values, step):
            logged.append((step, values))

        def finish(self):
            logged.append("finished")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **_: Run()))
    log = MetricsLog(tmp_path, wandb_project="clips", config={})
    log.write(3, {"loss": 0.5, "loss_by_time/0": 0.25})
    log.close()
    assert logged == [(3, {"loss": 0.5, "loss_by_time/0": 0.25}), "finished"]
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert dict(scalars(events.read_bytes())) == {"loss": (3, 0.5), "loss_by_time/0": (3, 0.25)}


def test_wandb_that_is_not_installed_is_named(tmp_path):
    with pytest.raises(UserError, match=r"train\.wandb_project=clips: wandb is not installed"):
        MetricsLog(tmp_path, wandb_project="clips")


def scalars(records: bytes):
    """(name, (step, value)) of a TensorBoard file: length, its checksum, an event, the event's checksum, and so on."""
    place = 0
    while place < len(records):
        (length,) = struct.unpack_from("<Q", records, place)
        event = Event.FromString(records[place + 12 : place + 12 + length])
        yield from ((value.tag, (event.step, value.simple_value)) for value in event.summary.value)
        place += 12 + length + 4
