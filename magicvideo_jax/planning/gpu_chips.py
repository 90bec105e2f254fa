"""NVIDIA GPUs: what XLA's compiler must know of them, and their rates.

The numbers that the compiler asks for are those that the CUDA driver reports of each device, as
openxla/xla lists them in `xla/backends/gpu/target_config/specs`; the peaks of dense bfloat16
products are those of NVIDIA's data sheets.
"""

from magicvideo_jax.planning.chip import Chip, Rates
from magicvideo_jax.planning.cuda_compiler import CUDACompiler
from magicvideo_jax.planning.gpu_target import GPUTarget

# Device, capability, features, cores, FPUs, memory, bandwidth, L2, GHz, shared memory, of a block
_A100 = GPUTarget(
    "NVIDIA A100-SXM4-80GB",
    *("8.0", "NONE", 108, 64, 85_100_068_864, 2_039_040_000_000, 40 << 20, 1.41),
    *(167_936, 166_912),
)
_H100 = GPUTarget(
    "NVIDIA H100 80GB HBM3",
    *("9.0", "ACCELERATED_FEATURES", 132, 128, 84_942_979_072, 3_352_320_000_000, 50 << 20, 1.98),
    *(233_472, 232_448),
)
_H200 = GPUTarget(
    "NVIDIA H200 141GB HBM3e",
    *("9.0", "ACCELERATED_FEATURES", 132, 128, 151_397_597_184, 4_800_000_000_000, 50 << 20, 1.98),
    *(233_472, 232_448),
)

_H100_TRUST = (
    "on an H100, t2v:sd15 with 2 clips took 98.7 ms in kernels, for which this estimate gives 96; "
    "errors of single rows cancel in that (attention took six times its row), and at 12 clips "
    "another formula that fits as well gives a fifth more"
)
_UNTRIED = "nothing was measured on this GPU; on an H100 one step was, and agreed within 3 %"


def _chip(name: str, target: GPUTarget, *, tflops: float, trust: str) -> Chip:
    return Chip(
        name,
        target.memory,
        f"{name}:8",
        CUDACompiler(target),
        preallocated=0.75,
        rates=Rates(tflops * 1e12, float(target.bandwidth), trust),
    )


GPUS = (
    _chip("a100", _A100, tflops=312.0, trust=_UNTRIED),
    _chip("h100", _H100, tflops=989.0, trust=_H100_TRUST),
    _chip("h200", _H200, tflops=989.0, trust=_UNTRIED),
)
