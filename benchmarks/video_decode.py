"""A clip through Stable Diffusion's decoder with the temporal layers of a VideoVAE: time and memory by frames at once.

    python benchmarks/video_decode.py [--frames 16] [--size 256] [--chunks 1 4 16] [--tile 0] [--rounds 1]

Random weights, float32 on CPU. One process for each size of chunks, and one JSON line: `temporary` is what XLA takes
beside weights and clip, `peak` the process's largest resident size, weights and compiler among it; gigabytes.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

arguments = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
arguments.add_argument("--frames", type=int, default=16)
arguments.add_argument("--size", type=int, default=256)
arguments.add_argument("--chunks", type=int, nargs="+", default=[1, 4, 16])
arguments.add_argument("--tile", type=int, default=0, help="latents; 0: whole frames")
arguments.add_argument("--rounds", type=int, default=1, help="0: compile only")
asked = arguments.parse_args()

if len(asked.chunks) > 1:
    rest = [f"--{name}={getattr(asked, name)}" for name in ("frames", "size", "tile", "rounds")]
    for chunk in asked.chunks:
        subprocess.run([sys.executable, __file__, *rest, "--chunks", str(chunk)], check=True)
    sys.exit()

from functools import partial

import jax
import numpy as np

from magicvideo_jax.models.bind import bind
from magicvideo_jax.models.vae import AutoencoderKL, VAEConfig
from magicvideo_jax.models.video_vae import TemporalDecoderConfig
from magicvideo_jax.runtime.compilation import jit
from magicvideo_jax.sampling.decoding import DecodeConfig, decode_clips

config = VAEConfig(temporal=TemporalDecoderConfig())
network = bind(lambda keys: AutoencoderKL(config, keys=keys))
decode_next = network.method(AutoencoderKL.decode_next)
parts = DecodeConfig(frames=asked.chunks[0], tile=asked.tile)
side = asked.size // config.factor
z = np.random.default_rng(0).standard_normal(
    (1, asked.frames, side, side, config.latent_channels), np.float32
)


def decode(params, z):
    return decode_clips(z, partial(decode_next, params), parts)


program = jit(decode).lower(network.shapes, z).compile()
found = {
    "benchmark": "video_decode",
    "frames": asked.frames,
    "size": asked.size,
    "chunk": parts.frames,
    "tile": parts.tile,
    "temporary": round(program.memory_analysis().temp_size_in_bytes / 1e9, 2),
}
if asked.rounds:
    params = jax.jit(network.init)(jax.random.key(0))
    times = []
    for _ in range(asked.rounds):
        began = time.perf_counter()
        jax.block_until_ready(program(params, z))
        times.append(round(time.perf_counter() - began, 1))
    found |= {
        "seconds": times,
        "peak": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }
print(json.dumps(found), flush=True)
