"""PyTorch weights to JAX and back.

    python -m magicvideo_jax.convert SOURCE TARGET

SOURCE is a folder in diffusers' layout, a single-file Stable Diffusion 1.x or 2.x checkpoint (.safetensors, .ckpt),
TAESD's files, a folder that this command wrote, or a work folder of `train` (its averaged weights). TARGET is the other
side's folder: JAX for PyTorch's, diffusers' for ours. It appears whole or not at all.
"""

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.runtime.exit import exit_with

if TYPE_CHECKING:
    from magicvideo_jax.weights.components import StableDiffusion
    from magicvideo_jax.weights.streaming import Tick
    from magicvideo_jax.weights.taesd_files import TAESDSource


def main() -> None:
    """The verb."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # runs what cleans up
    exit_with(lambda: convert(_arguments()), interrupted="interrupted: nothing was written")


def convert(asked: argparse.Namespace) -> None:
    """Open the source, write beside the target, rename."""
    source, target = Path(asked.source), Path(asked.target)
    if not source.exists():
        raise UserError(f"SOURCE {source}: no such file or folder")
    inside, outside = sorted(
        (source.resolve(), target.resolve()), key=lambda path: len(path.parts), reverse=True
    )
    if inside.is_relative_to(outside):
        raise UserError(
            f"TARGET {target}: lies within SOURCE {source} or the other way round; give another folder"
        )

    # Only now: JAX takes seconds to import, and help and mistakes should not.
    from magicvideo_jax.core.files import atomic_write
    from magicvideo_jax.weights.open import is_jax_folder
    from magicvideo_jax.weights.write_folders import check_target

    check_target(target, overwrite=asked.overwrite)
    is_ours = is_jax_folder(source) or _is_work_folder(source)
    to_jax = not is_ours if asked.to is None else asked.to == "jax"
    model = _open(source, asked)
    for note in getattr(model, "notes", ()):
        print(f"note: {note}", flush=True)
    print(f"writing {'a JAX' if to_jax else 'a diffusers'} folder to {target}", flush=True)
    started = time.monotonic()
    with atomic_write(target, replaces_folder=asked.overwrite) as folder:
        folder.mkdir()
        _write(model, folder, to_jax=to_jax, dtype=asked.dtype)
    print(f"wrote {target} in {time.monotonic() - started:.1f} s", flush=True)


def _open(source: Path, asked: argparse.Namespace) -> "StableDiffusion | TAESDSource":
    from magicvideo_jax.diffusion.process import Prediction
    from magicvideo_jax.weights.open import open_source
    from magicvideo_jax.weights.taesd_files import is_taesd, open_taesd

    if is_taesd(source):
        return open_taesd(source)
    if _is_work_folder(source):
        from magicvideo_jax.experiment.initial_weights import run_as_source
        from magicvideo_jax.experiment.run_folder import RunFolder

        return run_as_source(RunFolder(source))
    tokenizer = None if asked.tokenizer is None else Path(asked.tokenizer)
    if tokenizer is not None and not tokenizer.is_dir():
        raise UserError(f"--tokenizer {tokenizer}: no such folder")
    prediction = None if asked.prediction_type is None else Prediction(asked.prediction_type)
    return open_source(source, ema=asked.ema, prediction=prediction, tokenizer=tokenizer)


def _is_work_folder(source: Path) -> bool:
    """Told without importing what reads it: a folder in diffusers' layout has no config.json of its own."""
    return (source / "config.json").is_file() and (source / "checkpoints").is_dir()


def _write(
    model: "StableDiffusion | TAESDSource", folder: Path, *, to_jax: bool, dtype: str
) -> None:
    import ml_dtypes
    import numpy as np

    from magicvideo_jax.weights.taesd_files import TAESDSource, write_taesd, write_taesd_jax
    from magicvideo_jax.weights.write_folders import write_diffusers, write_jax

    kind = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[dtype]
    if isinstance(model, TAESDSource):
        write_taesd_jax(model, folder) if to_jax else write_taesd(model, folder, dtype=kind)
    elif to_jax:
        write_jax(model, folder, progress=_progress)
    else:
        write_diffusers(model, folder, dtype=kind, progress=_progress)


@contextlib.contextmanager
def _progress(name: str, total: int) -> "Iterator[Tick]":
    """A bar on a terminal, else a line when it is done."""
    from tqdm import tqdm

    if sys.stderr.isatty():
        with tqdm(total=total, desc=name, unit="B", unit_scale=True) as bar:

            def tick(count: int) -> None:
                bar.update(count)

            yield tick
        return
    started = time.monotonic()
    yield lambda _: None
    print(
        f"{name} {total / 1e6:.1f} MB of parameters: {time.monotonic() - started:.1f} s", flush=True
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m magicvideo_jax.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", help="folder or file to read")
    parser.add_argument("target", metavar="TARGET", help="folder to write")
    parser.add_argument(
        "--to",
        choices=("jax", "diffusers"),
        help="what to write (default: the other side of SOURCE's)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace TARGET if this command wrote it before"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        default="float32",
        help="of weights written for PyTorch (JAX parameters are always float32)",
    )
    parser.add_argument(
        "--ema", action="store_true", help="of a single file: the averaged U-Net (model_ema.*)"
    )
    parser.add_argument(
        "--prediction_type",
        choices=("epsilon", "v_prediction", "sample"),
        help="of a single file, which does not say it: default epsilon for 1.x, v_prediction for 2.x "
        "(the 512-pixel 2.x base models need epsilon)",
    )
    parser.add_argument(
        "--tokenizer", metavar="FOLDER", help="the tokenizer's files, which single files lack"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
