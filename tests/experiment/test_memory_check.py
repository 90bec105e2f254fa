"""A run that devices have no memory for says so, and what to do: before weights are loaded, or before step 0."""

from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import jax
import pytest
from tiny_experiment import tiny

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.experiment import memory_check as room
from magicvideo_jax.experiment import setup as starting
from magicvideo_jax.experiment.networks import Networks
from magicvideo_jax.experiment.run_folder import RunFolder
from magicvideo_jax.experiment.shapes import abstract_run
from magicvideo_jax.models.remat import Remat
from magicvideo_jax.models.unet import UNetLevelConfig
from magicvideo_jax.parallel.mesh import MeshConfig, abstract_mesh, make_mesh
from magicvideo_jax.training.checkpoint import Checkpoints
from magicvideo_jax.training.optimizer import Freeze


def wide(**changes):
    one = tiny(**changes)
    return replace(
        one,
        model=replace(
            one.model,
            unet=replace(one.model.unet, levels=(UNetLevelConfig(32, 2), UNetLevelConfig(64, 0))),
        ),
    )


def held(experiment, **changes):
    changed = replace(experiment, **changes)
    run = abstract_run(changed, Networks(changed.model), abstract_mesh(changed.mesh, 8))
    return sum(room.bytes_before_activations(run).values())


def planned(experiment):
    return abstract_run(experiment, Networks(experiment.model), make_mesh(experiment.mesh))


def test_what_does_not_fit_is_said_before_weights_are_loaded(tmp_path, monkeypatch):
    """The error lists settings that do fit, each checked by its own plan."""
    experiment = wide()
    limit = held(experiment, mesh=MeshConfig(fsdp=4))
    assert held(experiment, mesh=MeshConfig(fsdp=2)) > limit
    assert held(experiment, optim=replace(experiment.optim, freeze=Freeze.TEMPORAL)) <= limit
    monkeypatch.setattr(room, "memory_limit", lambda mesh: limit)
    monkeypatch.setattr(starting, "_initial_params", lambda *_: pytest.fail("weights were loaded"))
    folder = RunFolder(tmp_path)
    folder.create()
    with closing(Checkpoints(tmp_path)) as checkpoints, pytest.raises(UserError) as said:
        starting.set_up_or_resume(experiment, folder, checkpoints)
    line = str(said.value)
    assert "before activations (parameters" in line
    assert "--config.mesh.fsdp=4 (" in line
    assert "--config.optim.freeze=temporal (" in line
    assert "--config.optim.freeze=adaptor (" in line
    assert "fsdp=8" not in line


def test_ways_out_are_put_together_where_none_alone_suffices(monkeypatch):
    experiment = wide()
    both = {"mesh": MeshConfig(fsdp=8), "optim": replace(experiment.optim, freeze=Freeze.TEMPORAL)}
    limit = held(experiment, **both)
    monkeypatch.setattr(room, "memory_limit", lambda mesh: limit)
    networks = Networks(experiment.model)
    with pytest.raises(
        UserError, match=r"--config\.mesh\.fsdp=8 --config\.optim\.freeze=temporal \("
    ):
        room.check_memory(abstract_run(experiment, networks, make_mesh(MeshConfig())), networks)
    monkeypatch.setattr(room, "memory_limit", lambda mesh: 1000)
    with pytest.raises(UserError, match="give more devices, or smaller networks or clips"):
        room.check_memory(abstract_run(experiment, networks, make_mesh(MeshConfig())), networks)


def test_a_compiled_step_that_does_not_fit_is_said(monkeypatch):
    run = planned(tiny(train=replace(tiny().train, batch_size=16)))
    sizes = {"argument": 5, "output": 4, "alias": 4, "temp": 6}
    memory = SimpleNamespace(
        **{f"{name}_size_in_bytes": size << 30 for name, size in sizes.items()}
    )
    program = SimpleNamespace(memory_analysis=lambda: memory)
    room.check_program(program, run)  # CPU does not say what it has
    monkeypatch.setattr(room, "memory_limit", lambda mesh: 11 << 30)
    room.check_program(program, run)
    monkeypatch.setattr(room, "memory_limit", lambda mesh: 10 << 30)
    with pytest.raises(UserError) as said:
        room.check_program(program, run)
    assert (
        "needs 11.0 GiB per device, 6.0 GiB of it temporary, but a device has 10.0 GiB: give"
        in str(said.value)
    )
    ways = ["--config.train.accumulate=2", "--config.model.remat=full", "--config.mesh.fsdp=8"]
    assert [way.split(" ")[0] for way in str(said.value).split(": give ")[1].split("; or ")] == ways
    model = replace(run.experiment.model, remat=Remat.FULL)
    remat = replace(run.experiment, model=model, mesh=MeshConfig(fsdp=8))
    with pytest.raises(
        UserError, match=r"accumulate=2 \(.*; or --config\.train\.batch_size=8 .*freeze=temporal"
    ):
        room.check_program(program, planned(remat))


def test_a_refusal_of_the_compiler_is_one_line():
    run = planned(tiny())
    with (
        pytest.raises(
            UserError,
            match=r"XLA cannot fit the step \(20G exceeds 15.75G\): give --config\.model\.remat=full",
        ),
        room.step_out_of_memory_in_one_line(run),
    ):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 20G exceeds 15.75G\nallocations: ..")
    with pytest.raises(jax.errors.JaxRuntimeError), room.step_out_of_memory_in_one_line(run):
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")


def test_batches_that_wait_on_the_device_count(monkeypatch):
    """Two are fetched ahead: a batch that fits alone may not fit three times."""
    run = planned(tiny())
    parts = room.bytes_before_activations(run)
    assert parts["prefetched"] == 2 * parts["inputs"] > 0
    limit = sum(parts.values()) - 1
    monkeypatch.setattr(room, "memory_limit", lambda mesh: limit)
    with pytest.raises(UserError, match="per device before activations"):
        room.check_memory(run, Networks(run.experiment.model))
