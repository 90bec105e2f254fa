"""Plans: what a chip holds by hand-computable numbers, what programs say to one another, a real compiler if there."""

import importlib.util
import json
import re
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from tiny_experiment import tiny

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.experiment.config import Component, Compute
from magicvideo_jax.experiment.networks import PIPELINE, Networks
from magicvideo_jax.experiment.run_folder import RunFolder
from magicvideo_jax.experiment.setup import set_up_or_resume
from magicvideo_jax.experiment.shapes import abstract_run, batch_shapes
from magicvideo_jax.models.remat import Remat
from magicvideo_jax.models.unet import UNetLevelConfig
from magicvideo_jax.parallel.mesh import MeshConfig, abstract_mesh, make_mesh
from magicvideo_jax.planning.plan_text import plan_lines, plan_table, verdict
from magicvideo_jax.planning.program_plan import Costs, compiled_plan, quick_plan, sweep_plans
from magicvideo_jax.planning.programs import ProgramKind
from magicvideo_jax.planning.remat_choice import choose_remat
from magicvideo_jax.planning.topology import parse_topology
from magicvideo_jax.training.checkpoint import Checkpoints

ROOT = Path(__file__).parents[2]
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="needs libtpu: pip install -r requirements-plan.txt",
)


def experiment_of(*, fsdp: int = 1, batch: int = 8, **changes):
    """Wide enough that some parameters are spread."""
    one = tiny(**changes)
    unet = replace(
        one.model.unet, levels=(UNetLevelConfig(32, 2), UNetLevelConfig(64, 0)), groups=8
    )
    return replace(
        one,
        model=replace(one.model, unet=unet, compute=Compute.BFLOAT16),
        mesh=MeshConfig(fsdp=fsdp),
        train=replace(one.train, batch_size=batch),
    )


@pytest.mark.parametrize(("name", "chips"), [("v5e:2x4", 8), ("v5e:16x16", 256)])
@pytest.mark.parametrize("fsdp", [1, 8])
def test_a_chip_holds_what_a_hand_counts(name, chips, fsdp):
    """Large parameters divided by fsdp, small ones whole; twice as much for Adam's moments; a batch over all chips."""
    experiment = experiment_of(fsdp=fsdp, batch=chips)
    plan = quick_plan(experiment, parse_topology(name))
    networks = Networks(experiment.model, "tpu").by_component

    def numbers(*components):
        sizes = [
            leaf.size
            for component in components
            for leaf in jax.tree.leaves(networks[component].shapes)
        ]
        assert any(size >= MeshConfig.fsdp_min_size for size in sizes)
        return sum(size // fsdp if size >= MeshConfig.fsdp_min_size else size for size in sizes)

    held = numbers(Component.UNET)
    example = 2 * 16 * 16 * 3 + 24 * 4 + 4  # pixels uint8, ids int32, fps float32
    assert plan.parts["parameters"] == plan.parts["average"] == plan.parts["gradients"] == 4 * held
    assert plan.parts["frozen"] == 4 * numbers(Component.VAE, Component.TEXT)
    assert plan.parts["inputs"] == example
    assert 0 < plan.parts["moments"] - 2 * 4 * held <= 16  # and the counts of steps
    assert (plan.chips, plan.mesh) == (chips, {"data": chips // fsdp, "fsdp": fsdp, "frames": 1})
    assert not any(line.startswith("compiled") for line in plan_lines(plan))


@pytest.mark.parametrize("fsdp", [1, 8])
def test_sampling_holds_what_a_hand_counts(fsdp):
    """Parameters as they are spread; what is spread is gathered, as bfloat16; as many clips as chips, at least."""
    experiment = experiment_of(fsdp=fsdp)
    plan = quick_plan(experiment, parse_topology("v5e:4x4"), ProgramKind.SAMPLE)
    networks = Networks(experiment.model, "tpu").by_component.items()
    shapes = [network.shapes for component, network in networks if component in PIPELINE]
    sizes = [leaf.size for leaf in jax.tree.leaves(shapes)]
    spread = sum(size for size in sizes if size >= MeshConfig.fsdp_min_size) if fsdp > 1 else 0
    assert plan.parts["parameters"] == 4 * (sum(sizes) - spread + spread // fsdp)
    assert plan.parts["gathered"] == 2 * spread
    assert plan.batch_size == 16
    assert next(plan_lines(plan)).endswith("16 clips together")


def test_state_shrinks_as_fsdp_grows_and_a_table_leaves_out_what_does_not_divide():
    plans = list(
        sweep_plans(experiment_of(), ["v5e:2x4", "v6e:4x4"], fsdp=[1, 2, 8, 16], clips=[1, 2])
    )
    assert len(plans) == (3 + 4) * 2
    by_fsdp = [
        plan.parts["parameters"]
        for plan in plans
        if plan.topology == "v6e:4x4" and plan.batch_size == 16
    ]
    assert by_fsdp == sorted(by_fsdp, reverse=True)
    assert len(set(by_fsdp)) == 4
    inputs = [plan.parts["inputs"] for plan in plans if plan.mesh["fsdp"] == 8]
    assert inputs[1] == 2 * inputs[0]
    assert len(list(plan_table(plans))) == 1 + len(plans)


def test_what_cannot_fit_is_said():
    plan = quick_plan(experiment_of(), parse_topology("v5e:2x4"))
    assert "left for activations" in verdict(plan)
    assert verdict(replace(plan, memory=plan.least - 1)) == "does not fit"


@pytest.mark.parametrize(
    "experiment",
    [
        tiny("vae"),
        tiny(data=replace(tiny().data, joint_images=True)),
    ],
    ids=["vae", "joint"],
)
def test_a_plan_is_of_the_run_itself(experiment, tmp_path):
    """State and batch of a run that starts, shape by shape and place by place."""
    folder = RunFolder(tmp_path)
    folder.create()
    with closing(Checkpoints(tmp_path)) as checkpoints:
        started = set_up_or_resume(experiment, folder, checkpoints)
    fitted = started.experiment
    planned = abstract_run(fitted, Networks(fitted.model), make_mesh(fitted.mesh))

    def facts(tree):
        return jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), tree)

    assert facts(planned.state) == facts(started.state)
    assert facts(planned.batch) == facts(started.loader.shapes())


def test_the_bytes_of_sets_that_are_not_here_are_those_of_latents():
    experiment = tiny()
    away = replace(experiment.data.sources[0], path="gs://nobody/set")
    experiment = replace(experiment, data=replace(experiment.data, sources=(away,)))
    mesh = abstract_mesh(MeshConfig(), 8)
    batch = batch_shapes(experiment, Networks(experiment.model), mesh)
    assert (batch["latents"].shape, batch["latents"].dtype) == ((8, 2, 8, 8, 4), jnp.float32)


@pytest.mark.parametrize(
    ("name", "slices", "changes", "said"),
    [
        ("v9:2x2", 1, {}, "--topology=v9:2x2: give a chip and its arrangement"),
        ("v5p:4x4", 1, {}, "--topology=v5p:4x4: give a chip"),
        ("v5e:2x4", 0, {}, "--slices=0"),
        (
            "v5e:2x4",
            1,
            {"fsdp": 3},
            r"mesh \(data=2, fsdp=3, frames=1\) needs 6 devices but there are 8",
        ),
        ("v5e:16x16", 1, {}, "train.batch_size=8: give a multiple of 256"),
        ("v5e:2x4", 3, {"fsdp": 24, "batch": 24}, "mesh.data=1: give a multiple of 3"),
    ],
)
def test_what_cannot_be_planned_is_named(name, slices, changes, said):
    with pytest.raises(UserError, match=said):
        quick_plan(experiment_of(**changes), parse_topology(name, slices=slices))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--config=tests/tiny_config.py", "--table", "--what=sample"],
            "--what=sample: a table is of steps",
        ),
        (
            ["--config=tests/tiny_config.py", "--topology=v5e:2x4", "--quick", "--remat=auto"],
            "--remat=auto compiles training steps: give it without --quick",
        ),
        ([], "give --config=configs/t2v.py:sd15 and --topology=v5e:16x16, or --table"),
        (["--config=tests/tiny_config.py", "--table", "--fsdp=0"], "--fsdp=0: give whole numbers"),
        (
            ["--config=tests/tiny_config.py", "--topology=v5e:2x4"],
            "libtpu is not installed: pip install -r requirements",
        ),
    ],
)
def test_a_mistake_is_one_line(arguments, said):
    without = "import sys, runpy; sys.modules['libtpu'] = None; "
    program = f"{without} runpy.run_module('magicvideo_jax.plan', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert said in done.stderr


def test_the_verb_writes_what_it_says(tmp_path):
    out = tmp_path / "plan.json"
    command = ["--config=tests/tiny_config.py", "--topology=v5e:2x4", "--quick", f"--out={out}"]
    done = subprocess.run(
        [sys.executable, "-m", "magicvideo_jax.plan", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    written = json.loads(out.read_text())
    assert written["chips"] == 8
    assert re.search(r"at least +\d", done.stdout)


@pytest.mark.parametrize(
    ("first_that_fits", "rows"), [(Remat.NONE, 1), (Remat.LARGE, 3), (Remat.FULL, 4)]
)
def test_the_first_remat_that_fits_is_chosen(first_that_fits, rows):
    """What recomputes least comes first, and nothing is compiled beyond what fits."""
    kinds = list(Remat)
    before, on = experiment_of(), parse_topology("v5e:2x4")

    def plan_step(experiment, on):
        kind = kinds.index(experiment.model.remat)
        costs = [Costs(False, "too large"), Costs(True, temporaries=2 * on.chip.memory)]
        if kind >= kinds.index(first_that_fits):
            costs.append(Costs(True, temporaries=on.chip.memory // 2))
        return replace(quick_plan(experiment, on), flops=(kind + 1) * 10**15, costs=costs[-1])

    report = []
    chosen = choose_remat(before, on, report=report.append, plan_step=plan_step)
    assert chosen == replace(before, model=replace(before.model, remat=first_that_fits))
    assert [line.split()[0] for line in report[1:-1]] == [kind.value for kind in kinds[:rows]]
    assert [line.endswith("does not fit") for line in report[1:-1]] == [True] * (rows - 1) + [False]


def test_where_no_remat_fits_the_error_says_what_would():
    def plan_step(experiment, on):
        return replace(quick_plan(experiment, on), costs=Costs(False, "too large"))

    with pytest.raises(UserError, match=r"--remat=auto: no step fits v5e:2x4: give a smaller"):
        choose_remat(experiment_of(), parse_topology("v5e:2x4"), report=print, plan_step=plan_step)


def test_a_vae_samples_nothing():
    with pytest.raises(UserError, match="--what=sample: stage=vae does not sample from prompts"):
        quick_plan(tiny("vae"), parse_topology("v5e:2x4"), ProgramKind.SAMPLE)


@needs_libtpu
@pytest.mark.slow
def test_libtpu_compiles_sampling(monkeypatch, tmp_path):
    """Chips gather parameters and say nothing else to one another."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    plan = compiled_plan(experiment_of(fsdp=8), parse_topology("v5e:2x4"), ProgramKind.SAMPLE)
    costs = plan.costs
    assert costs is not None
    assert costs.fits
    sent = {kind for kind, of_kind in costs.collectives.items() if of_kind["bytes_sent"]}
    assert sent == {"all-gather"}
    # Once, as bfloat16, but for the table of words.
    assert costs.collectives["all-gather"]["bytes_sent"] < 1.5 * plan.parts["gathered"] * 7 / 8
    assert 0 < costs.flops_compiled * plan.chips < plan.flops


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize("name", ["v5e:2x4", "v5e:16x16"])
def test_libtpu_compiles_a_small_model(name, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    on = parse_topology(name)
    experiment = experiment_of(fsdp=8, batch=on.chips)
    plan = compiled_plan(experiment, on)
    costs = plan.costs
    assert costs is not None
    assert costs.fits
    # Layouts pad; what is handed in is at least what the shapes say.
    assert costs.arguments >= plan.least - plan.parts["gradients"]
    assert costs.aliased >= plan.parts["parameters"] + plan.parts["average"] + plan.parts["moments"]
    assert plan.flops > 0
    assert costs.collectives["all-gather"]["bytes_sent"] > 0
    assert sum(kind["bytes_sent"] for kind in costs.collectives.values()) > plan.parts["gradients"]
    # The second time it is read.
    monkeypatch.setattr(jax.stages.Lowered, "compile", None)
    assert compiled_plan(experiment, on) == plan
    assert next(iter(sweep_plans(experiment, [name], fsdp=[8], clips=[1]))).costs == costs
    assert any("all-gather" in line for line in plan_lines(plan))
