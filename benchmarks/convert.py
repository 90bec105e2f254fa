"""How long `convert` takes on a full-size Stable Diffusion 1.5 folder, and how much memory.

    python benchmarks/convert.py [--dtype float32|float16] [--folder DIR]

Builds a random folder in diffusers' layout and converts it to JAX and back in child processes. Prints one JSON line:
seconds over those of merely reading the files (from a warm page cache) and of copying them, and peak resident memory
over the size of the float32 parameters (of all networks; of the largest, as one is in memory at a time), without what
a process holds that has only imported JAX. Needs about 18 GB of disk.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from magicvideo_jax.core.tree import flatten, size_in_bytes, unflatten
from magicvideo_jax.diffusion.noise_config import NoiseScheduleConfig
from magicvideo_jax.models.clip_text import VIT_L
from magicvideo_jax.models.unet import SD1
from magicvideo_jax.models.vae import VAEConfig
from magicvideo_jax.weights import components as parts
from magicvideo_jax.weights.components import ComponentWeights, Weights
from magicvideo_jax.weights.param_sources import GivenParams
from magicvideo_jax.weights.scheduler_json import noise_json
from magicvideo_jax.weights.writing.write_folders import write_diffusers

_CHUNK = 16 * 2**20


def main() -> None:
    asked = _arguments()
    with tempfile.TemporaryDirectory(dir=asked.folder) as scratch:
        folder = Path(scratch)
        model = _random_model()
        write_diffusers(model, folder / "source", dtype=getattr(np, asked.dtype))
        size = sum(size_in_bytes(part.network().shapes) for part in model.parts)
        largest = size_in_bytes(model.unet.network().shapes)
        bare = _child([sys.executable, "-c", "import jax; jax.devices()"])
        _read(folder / "source")  # warms the page cache
        reading = _read(folder / "source")
        there = _convert(folder / "source", folder / "jax", "float32")
        reading_again = _read(folder / "source")
        there_again = _convert(folder / "source", folder / "jax", "float32")
        back = _convert(folder / "jax", folder / "back", asked.dtype)
        copying = _copy(folder / "source", folder / "copy")
        identical = _identical(folder / "source", folder / "back")
    result = {
        "benchmark": "convert",
        "dtype": asked.dtype,
        "parameter_gb": size / 1e9,
        "largest_network_gb": largest / 1e9,
        "reading_s": [reading, reading_again],
        "copying_s": copying,
        "to_jax_s": [there["seconds"], there_again["seconds"]],
        "to_jax_over_reading": min(there["seconds"], there_again["seconds"])
        / min(reading, reading_again),
        "to_jax_over_copying": min(there["seconds"], there_again["seconds"]) / copying,
        "to_diffusers_s": back["seconds"],
        "bare_jax_rss_gb": bare["rss"] / 1e9,
        "to_jax_peak_over_parameters": (there["rss"] - bare["rss"]) / size,
        "to_jax_peak_over_largest_network": (there["rss"] - bare["rss"]) / largest,
        "to_diffusers_peak_over_parameters": (back["rss"] - bare["rss"]) / size,
        "to_diffusers_peak_over_largest_network": (back["rss"] - bare["rss"]) / largest,
        "round_trip_identical": identical,
    }
    print(json.dumps({key: _short(value) for key, value in result.items()}))


def _random_model() -> Weights:
    """Stable Diffusion 1.5 with cheap random weights, drawn when they are asked for."""
    noise = NoiseScheduleConfig()
    networks = {
        "unet": _random_part(parts.UNET, SD1),
        "vae": _random_part(parts.VAE, VAEConfig()),
        "text_encoder": _random_part(parts.TEXT, VIT_L),
    }
    return Weights(networks, noise, noise_json(noise))


def _random_part(kind, config) -> ComponentWeights:
    shapes = kind.network(config).shapes

    def drawn():
        rng = np.random.default_rng(0)
        flat = flatten(shapes).items()
        return unflatten({path: rng.standard_normal(x.shape, np.float32) for path, x in flat})

    source = GivenParams(shapes, drawn, kind.words)
    return ComponentWeights(kind, config, kind.write(config), source)


def _read(folder: Path) -> float:
    """Seconds of reading every byte of the weight files once."""
    started = time.monotonic()
    for path in sorted(folder.rglob("*.safetensors")):
        with path.open("rb", buffering=0) as file:
            while file.read(_CHUNK):
                pass
    return time.monotonic() - started


def _copy(source: Path, target: Path) -> float:
    """Seconds of copying the weight files: no conversion can write in less."""
    started = time.monotonic()
    for path in sorted(source.rglob("*.safetensors")):
        (target / path.parent.name).mkdir(parents=True)
        shutil.copyfile(path, target / path.parent.name / path.name)
    return time.monotonic() - started


def _convert(source: Path, target: Path, dtype: str) -> dict[str, float]:
    command = [
        "-m",
        "magicvideo_jax.convert",
        str(source),
        str(target),
        "--overwrite",
        "--dtype",
        dtype,
    ]
    return _child([sys.executable, *command])


def _child(command: list[str]) -> dict[str, float]:
    """Run a command; its seconds, and its peak memory in bytes as the kernel counts it for that process alone."""
    started, peak = time.monotonic(), 0
    child = subprocess.Popen(command, stdout=sys.stderr)
    while child.poll() is None:
        peak = max(peak, _peak_of(child.pid))
        time.sleep(0.02)
    if child.returncode:
        sys.exit(f"{' '.join(command)} failed")
    return {"seconds": time.monotonic() - started, "rss": peak}


def _peak_of(pid: int) -> int:
    """VmHWM, the largest resident size so far (Linux); 0 as the process ends."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def _identical(a: Path, b: Path) -> bool:
    """Whether the weight files hold the same bytes."""

    def same(one: Path, two: Path) -> bool:
        with one.open("rb") as first, two.open("rb") as second:
            while chunk := first.read(_CHUNK):
                if chunk != second.read(_CHUNK):
                    return False
            return not second.read(1)

    return all(same(path, b / path.relative_to(a)) for path in a.rglob("*.safetensors"))


def _short(value: object) -> object:
    if isinstance(value, list):
        return [_short(each) for each in value]
    return round(value, 3) if isinstance(value, float) else value


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--dtype", choices=("float32", "float16"), default="float32", help="of the source's files"
    )
    parser.add_argument("--folder", help="where to put the scratch files (default: the system's)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
