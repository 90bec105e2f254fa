"""Plans for GPUs that are not here: their topologies, kernels of a program's text, an estimate of time, and a real
compiler if there.
"""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import jax
import pytest
from tiny_experiment import tiny

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.experiment.config import Compute
from magicvideo_jax.models.attention import attend
from magicvideo_jax.models.unet import UNetLevelConfig
from magicvideo_jax.parallel.mesh import MeshConfig
from magicvideo_jax.planning.chip import ProgramMemory, Rates
from magicvideo_jax.planning.collectives import Collective, find_collectives
from magicvideo_jax.planning.cuda_compiler import CUDACompiler, assigned_memory
from magicvideo_jax.planning.flops import count_flops
from magicvideo_jax.planning.gpu_chips import GPUS
from magicvideo_jax.planning.hlo import LargeArray, largest_arrays
from magicvideo_jax.planning.kernels import Kernel, find_kernels
from magicvideo_jax.planning.plan_text import plan_lines, verdict
from magicvideo_jax.planning.program_plan import Costs, compiled_plan, quick_plan
from magicvideo_jax.planning.programs import ProgramKind
from magicvideo_jax.planning.roofline import (
    OperationCosts,
    costs_by_operation,
    estimated_seconds,
    total_costs,
)
from magicvideo_jax.planning.topology import parse_topology
from magicvideo_jax.runtime.traced_gpu import compute_capability, tracing_for_gpu

needs_cuda_compiler = pytest.mark.skipif(
    sys.version_info < (3, 12) or importlib.util.find_spec("jax_cuda13_plugin") is None,
    reason="needs JAX's CUDA compiler: pip install -r requirements-plan-cuda.txt",
)


@pytest.mark.parametrize(
    ("name", "slices", "chips"),
    [("h100", 1, 1), ("h100:8", 1, 8), ("h200:4", 2, 8), ("a100", 1, 1)],
)
def test_gpus_are_given_by_number(name, slices, chips):
    on = parse_topology(name, slices=slices)
    assert (on.chips, on.slices) == (chips, slices)
    assert on.chip.compiler.platform == "gpu"


@pytest.mark.parametrize("name", ["h100:2x4", "h100:0", "h100:", "h101", "v5e", ""])
def test_other_names_are_refused_with_examples_of_both_kinds(name):
    with pytest.raises(UserError, match=r"like v5e:16x16, .*h100:8"):
        parse_topology(name)


@pytest.mark.parametrize("chip", GPUS, ids=lambda chip: chip.name)
def test_a_gpu_is_described_to_the_compiler_as_it_is_in_the_table(chip):
    """Field by field, each once: what is missing would be zero, and change the program without a word."""
    compiler = chip.compiler
    assert isinstance(compiler, CUDACompiler)
    text = compiler.target.proto()
    assert text.count(f"device_memory_size: {chip.memory}\n") == 1
    assert text.count(f"memory_bandwidth: {chip.rates.bandwidth:.0f}\n") == 1
    assert f"core_count: {compiler.target.cores}\n" in text
    assert text.count("{") == text.count("}")


def test_attention_is_traced_for_the_gpu_of_the_plan():
    """A plan names the capability; without one, this machine decides."""
    q = jax.ShapeDtypeStruct((1, 64, 2, 8), jax.numpy.float32)
    assert compute_capability() is None
    with tracing_for_gpu("9.0"):
        assert compute_capability() == "9.0"
        with tracing_for_gpu("8.0"):
            assert compute_capability() == "8.0"
        assert compute_capability() == "9.0"
    assert compute_capability() is None
    # Of implementations by platform the default's arithmetic counts.
    jaxpr = jax.make_jaxpr(lambda q: attend(q, q, q))(q)
    assert count_flops(jaxpr) == 2 * 2 * (2 * 64 * 64 * 8)


def test_of_implementations_by_platform_the_default_counts():
    def product(x):
        return x @ x

    def nothing(x):
        return x

    def program(x):
        return jax.lax.platform_dependent(x, cuda=nothing, cpu=nothing, default=product)

    assert count_flops(jax.make_jaxpr(program)(jax.numpy.zeros((4, 4)))) == 2 * 4**3


STEP = (Path(__file__).parent / "gpu_step.hlo").read_text()

X, Y, K, CONV = 2 * 2 * 8 * 8 * 3, 2 * 2 * 8 * 8 * 4, 2 * 4 * 3 * 3 * 3, 2 * (2 * 8 * 8 * 4) * 27


def test_kernels_are_counted_as_by_hand():
    """Scratch memory of libraries does not count; slices count as what they take, updates as what they put; a loop's
    body counts in every round."""
    assert find_kernels(STEP) == [
        Kernel("convolution", X + K + Y, CONV, 1),
        Kernel("convolution, gradient of kernel", X + Y + K, CONV, 1),
        Kernel("convolution, gradient of input", Y + K + X, CONV, 1),
        Kernel("product", 2 * (2 * 5 * 16 * 7 + 5 * 16 * 11), 2 * 5 * 16 * 7 * 11, 1),
        Kernel("attention", 3 * X + 2 * 2 * 8 * 64 * 40, 2 * 2 * (2 * 8 * 64 * 32) * 40, 1),
        Kernel("elementwise, backward", 4 * (10 + 10 + 10), 0, 1),
        Kernel("copy", 4 * 2000, 0, 1),
        Kernel("collective", 4 * 20, 0, 1),
        Kernel("collective", 4 * (16 + 8), 0, 1),
        Kernel("sum", 4 * 1001, 0, 1),
        Kernel("update: gradient norm, AdamW, average", 4 * (10 + 1 + 10), 0, 1),
        Kernel("elementwise", 4 * 30, 0, 3),
    ]


def test_collectives_of_gpus_are_read():
    """One is asynchronous by itself, one wrapped in a computation."""
    assert find_collectives(STEP, 2) == [
        Collective("all-reduce", 4 * 10, 2, 1),
        Collective("reduce-scatter", 4 * 16, 2, 1),
    ]


def test_elements_of_tuples_are_arrays_of_their_own():
    """XLA's dumps name them `name#1` instead of taking them by an instruction."""
    assert largest_arrays(STEP, 2) == [
        LargeArray(
            "bf16[2,8,64,40]",
            2 * 2 * 8 * 64 * 40,
            1,
            "jit(train_step)/jvp()/dot_product_attention_fwd",
        ),
        LargeArray("s8[4096]", 4096, 1, "jit(train_step)/jvp()/dot_general"),
    ]


def test_time_is_bound_by_bytes_or_by_flops_and_by_launches():
    rates = Rates(flops=1000.0, bandwidth=100.0, trust="")
    kernels = [
        Kernel("product", bytes=100, flops=8000, times=1),  # 10 s at 0.8 of the peak
        Kernel("sum", bytes=300, flops=0, times=2),  # 3 s, twice
        Kernel("product", bytes=200, flops=8, times=1),  # 2 s
    ]
    costs = costs_by_operation(kernels, rates)
    assert costs == (
        OperationCosts("product", 2, 300, 8008, 12.0),
        OperationCosts("sum", 2, 600, 0, 6.0),
    )
    assert total_costs(costs) == OperationCosts("in all", 4, 900, 8008, 18.0)
    assert estimated_seconds(costs) == pytest.approx(18 + 4 * 5e-6)


def test_memory_is_read_from_the_assignment_of_buffers():
    """What is both an argument and an output is aliased."""
    text = """BufferAssignment:
allocation 0: size 100, page 0, parameter 3, shape |f32[25]| at ShapeIndex {}, maybe-live-out:
 value: <1 state @0> (size=100,offset=0): f32[25]{0}
allocation 1: size 40, page 0, parameter 0, shape |f32[10]| at ShapeIndex {}:
allocation 2: size 8, page 0, output shape is |f32[2]|, maybe-live-out:
allocation 3: size 4, page 0, constant:
allocation 4: size 5000, page 0, preallocated-temp:
allocation 5: size 16, page 0, thread-local:
"""
    assert assigned_memory(text) == ProgramMemory(
        arguments=140, temporaries=5004, outputs=108, aliased=100
    )


def experiment_of(**changes):
    one = tiny(**changes)
    unet = replace(
        one.model.unet, levels=(UNetLevelConfig(32, 2), UNetLevelConfig(64, 0)), groups=8
    )
    return replace(one, model=replace(one.model, unet=unet, compute=Compute.BFLOAT16))


def test_a_plan_says_which_share_of_a_gpu_it_needs():
    """JAX takes three quarters of a GPU by itself."""
    plan = quick_plan(experiment_of(), parse_topology("h100"))
    assert "left for activations" in verdict(plan)

    def said(share):
        costs = Costs(fits=True, temporaries=int(share * plan.memory))
        return verdict(replace(plan, costs=costs))

    assert said(0.7) == "fits"
    assert said(0.801) == "fits if XLA_PYTHON_CLIENT_MEM_FRACTION is at least 0.81"
    assert said(1.01) == "does not fit"


@pytest.mark.parametrize(
    ("python", "said"),
    [
        (
            (3, 11, 7),
            "--topology=h100: JAX's CUDA compiler needs Python 3.12 or later, this is 3.11: see ",
        ),
        ((3, 12, 1), "--topology=h100: JAX's CUDA compiler is not installed: pip install -r "),
    ],
)
def test_a_missing_compiler_is_one_line_that_names_the_file(python, said, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "version_info", python)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError) as error:
        compiled_plan(experiment_of(), parse_topology("h100"))
    assert str(error.value) == f"{said}requirements-plan-cuda.txt, or plan with --quick"


@needs_cuda_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "what"),
    [("h100", ProgramKind.STEP), ("h200:8", ProgramKind.STEP), ("h100", ProgramKind.SAMPLE)],
)
def test_the_cuda_compiler_compiles_a_small_model(name, what, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    on = parse_topology(name)
    experiment = replace(experiment_of(), mesh=MeshConfig(fsdp=on.chips))
    plan = compiled_plan(experiment, on, what)
    costs = plan.costs
    assert costs is not None
    assert costs.fits
    by_class = {one.operation: one for one in costs.operations}
    assert by_class["convolution"].kernels > 0
    assert by_class["product"].flops > 0
    if what is ProgramKind.STEP:
        assert costs.arguments >= plan.least - plan.parts["gradients"]
        assert (
            costs.aliased
            >= plan.parts["parameters"] + plan.parts["average"] + plan.parts["moments"]
        )
        assert by_class["convolution, gradient of kernel"].kernels > 0
        assert (costs.collectives["all-gather"]["bytes_sent"] > 0) == (on.chips > 1)
    assert any(line.startswith("roofline") for line in plan_lines(plan))


def test_attention_over_frames_counts_its_arrays_once_and_no_masked_scores():
    """Two products forward and five backward, of each pixel's own frames."""
    activations, added = 2 * 16 * 4 * 8 * 40, 16 * 16
    call = (
        'custom_call_target="__gpu$xla.gpu.triton", metadata={op_name="jit(step)/%s/pallas_call"}'
    )
    program = f"""HloModule step

ENTRY %main (qkv: bf16[2,16,4,3,8,40], g: bf16[2,16,4,8,40], added: f32[1,16,16]) -> bf16[] {{
  %qkv = bf16[2,16,4,3,8,40]{{5,4,3,2,1,0}} parameter(0)
  %g = bf16[2,16,4,8,40]{{4,3,2,1,0}} parameter(1)
  %added = f32[1,16,16]{{2,1,0}} parameter(2)
  %values = bf16[2,16,4,8,40]{{4,3,2,1,0}} custom-call(%qkv, %added), {call % "jvp()"}
  ROOT %of_qkv = bf16[2,16,4,3,8,40]{{5,4,3,2,1,0}} custom-call(%qkv, %g, %added), {call % "transpose(jvp())"}
}}
"""
    forward, backward = find_kernels(program)
    assert forward.operation == "attention over frames"
    assert forward.bytes == 2 * (3 + 1) * activations + 4 * added
    assert forward.flops == 2 * 2 * activations * 16
    assert backward.operation == "attention over frames, backward"
    assert backward.bytes == 2 * (3 + 1 + 3) * activations + 4 * added
    assert backward.flops == 2 * 5 * activations * 16
