"""PyTorch weights to JAX and back.

    python -m magicvideo_jax.convert SOURCE TARGET

SOURCE is a folder in diffusers' layout, a single-file Stable Diffusion 1.x or 2.x checkpoint
(.safetensors, .ckpt), a VAE alone (folder or file), TAESD's files, motion modules of AnimateDiff
(file or folder of a MotionAdapter), a file of LaVie, a folder that this command wrote, or a work
folder of `train` (its averaged weights); or the name of such weights on the Hugging Face Hub,
owner/name or hf://owner/name@revision/path. TARGET is a folder of the other side: JAX for
PyTorch's, diffusers' for ours. It appears whole or not at all.

`--to` names other forms. Of weights with motion modules: motion_adapter, a folder of these alone for
diffusers, and animatediff, a .safetensors file of them in AnimateDiff's own keys. Of LaVie's
networks: lavie, a .safetensors file in LaVie's own keys. Of latent flow: lfdm_flow, the auto-encoder,
and lfdm_diffusion, the U-Net, as a .pth file that LFDM's code loads. Of a run with `optim.freeze=lora`:
kohya_lora, diffusers_lora and motion_lora, a .safetensors file of its LoRA.
"""

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.paths import local_path
from magicvideo_jax.models.temporal import MotionNorm
from magicvideo_jax.runtime.exit import exit_with
from magicvideo_jax.weights.hub.hub_name import is_address

if TYPE_CHECKING:
    from magicvideo_jax.weights.components import Weights
    from magicvideo_jax.weights.streaming import Tick

FOLDERS, FILES = ("jax", "diffusers", "motion_adapter"), ("animatediff", "lavie")
TORCH_FILES = ("lfdm_flow", "lfdm_diffusion")
"""What may be written: names of folders, and of `weights.writing.file_forms.FILE_FORMS`."""
LORA_FORMS = ("kohya_lora", "diffusers_lora", "motion_lora")
"""Names of `weights.writing.write_lora.LORA_FILE_FORMS`, which JAX would have to be loaded for."""
_TORCH_FILE = ".pth"
_FILE, _OTHER_FILES = ".safetensors", (".ckpt", ".pt", ".pth", ".bin")


def main() -> None:
    """Run the command."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # runs what cleans up
    exit_with(lambda: convert(_arguments()), interrupted="interrupted: nothing was written")


def convert(asked: argparse.Namespace) -> None:
    """Open the source, write beside the target, rename."""
    source, target = asked.source, local_path(asked.target, argument="TARGET")
    if asked.to in LORA_FORMS:
        _convert_lora(asked, local_path(source, argument="SOURCE"), target)
        return
    is_file = _is_file(asked)
    if not is_file and asked.to in (*FILES, *TORCH_FILES):
        raise UserError(f"TARGET {target}: give the name of a {_ending(asked)} file")
    if (target.suffix.lower() in _OTHER_FILES and not is_file) or (is_file and asked.to in FOLDERS):
        flow = f" (or --to={' or '.join(TORCH_FILES)})" if target.suffix == _TORCH_FILE else ""
        raise UserError(
            f"TARGET {target}: a folder is written, not a file: give a name without {target.suffix}{flow}"
        )
    if not is_address(source):
        _check_apart(local_path(source, argument="SOURCE"), target)

    # Only now: JAX takes seconds to import, and help and mistakes should not.
    from magicvideo_jax.core.files import atomic_write
    from magicvideo_jax.weights.writing.write_target import check_target

    check_target(target, is_file=is_file, overwrite=asked.overwrite)
    weights = _open(asked)
    form = _form(weights, asked, target)
    for note in (*weights.notes, *form.notes):
        print(f"note: {note}", flush=True)
    print(f"writing {form.words} to {target}", flush=True)
    started = time.monotonic()
    with atomic_write(target, replaces_folder=asked.overwrite) as aside:
        if not is_file:
            aside.mkdir()
        form.write(aside)
    print(f"wrote {target} in {time.monotonic() - started:.1f} s", flush=True)


def _convert_lora(asked: argparse.Namespace, source: Path, target: Path) -> None:
    """Write the LoRA that a run trained. Errors: `UserError` for any other SOURCE."""
    if target.suffix != ".safetensors":
        raise UserError(f"TARGET {target}: give the name of a .safetensors file")
    if asked.lora:
        raise UserError(
            f"--lora={asked.lora[0]}: is not written with --to={asked.to}: leave it out"
        )

    from magicvideo_jax.core.files import atomic_write
    from magicvideo_jax.experiment.networks import Networks
    from magicvideo_jax.experiment.run_folder import RunFolder, trained_factors
    from magicvideo_jax.training.optimizer import Freeze
    from magicvideo_jax.weights.writing.write_lora import write_lora
    from magicvideo_jax.weights.writing.write_target import check_target

    check_target(target, is_file=True, overwrite=asked.overwrite)
    folder = RunFolder(source)
    experiment = folder.experiment()
    optim = experiment.optim
    if optim.freeze is not Freeze.LORA:
        raise UserError(
            f"SOURCE {source}: its run trained whole weights (config.optim.freeze="
            f"{optim.freeze.value}), not a LoRA: give --to=diffusers"
        )
    factors = trained_factors(folder, Networks(experiment.model), experiment)
    with atomic_write(target) as file:
        write_lora(file, factors, asked.to, scale=optim.lora.scale, dtype=_dtype(asked.dtype))
    print(f"wrote {target}", flush=True)


def _is_file(asked: argparse.Namespace) -> bool:
    return Path(asked.target).suffix.lower() == _ending(asked)


def _ending(asked: argparse.Namespace) -> str:
    """Ending of the name of a file in the form asked for."""
    return _TORCH_FILE if asked.to in TORCH_FILES else _FILE


def _check_apart(source: Path, target: Path) -> None:
    """Errors: `UserError` where one of the two lies in the other."""
    inside, outside = sorted(
        (source.resolve(), target.resolve()), key=lambda path: len(path.parts), reverse=True
    )
    if inside.is_relative_to(outside):
        raise UserError(
            f"TARGET {target}: lies within SOURCE {source} or the other way round; give another folder"
        )


def _open(asked: argparse.Namespace) -> "Weights":
    """The source, with the parts that other arguments supply. Errors: all that `sample` could not
    read, either."""
    from magicvideo_jax.data.tokenizer import CaptionTokenizer
    from magicvideo_jax.diffusion.process import Prediction
    from magicvideo_jax.experiment.opening.run_weights import open_any_weights, weights_to_export
    from magicvideo_jax.experiment.opening.weight_additions import COMMAND_LINE, with_additions
    from magicvideo_jax.weights.components import TEXT, VAE
    from magicvideo_jax.weights.fitting import check_parts
    from magicvideo_jax.weights.flow_components import FLOW_FOLDERS
    from magicvideo_jax.weights.formats.weight_format import OpenOptions
    from magicvideo_jax.weights.writing.write_folders import check_complete

    tokenizer = None
    if asked.tokenizer is not None:
        tokenizer = local_path(asked.tokenizer, argument="--tokenizer")
        if not tokenizer.is_dir():
            raise UserError(f"--tokenizer {tokenizer}: no such folder")
    options = OpenOptions(
        ema=asked.ema,
        prediction=None if asked.prediction_type is None else Prediction(asked.prediction_type),
        tokenizer=tokenizer,
        variant=asked.variant,
    )
    weights = open_any_weights(asked.source, argument="SOURCE", options=options)
    weights = weights_to_export(weights)
    for kind, argument, path in ((VAE, "--vae", asked.vae), (TEXT, "--text", asked.text)):
        if path:
            other = open_any_weights(path, argument=argument)
            if kind.folder not in other.parts:
                raise UserError(f"{argument}={path}: holds no {kind.words}")
            parts = {**weights.parts, kind.folder: other.parts[kind.folder]}
            files = weights.tokenizer or (other.tokenizer if kind is TEXT else None)
            notes = (*weights.notes, *other.notes)
            weights = replace(weights, parts=parts, tokenizer=files, notes=notes)
    weights = with_additions(
        weights,
        COMMAND_LINE,
        motion=asked.motion,
        loras=asked.lora,
        motion_norm=MotionNorm(asked.motion_norm),
    )
    if asked.to not in TORCH_FILES and FLOW_FOLDERS & set(weights.parts):
        raise UserError(
            f"SOURCE {asked.source}: networks of latent flow are written as LFDM's files alone: give "
            f"--to={' or '.join(TORCH_FILES)}, and a TARGET that ends in {_TORCH_FILE}"
        )
    if asked.to in (None, "jax", "diffusers") and not _is_file(asked):
        check_complete(weights, f"SOURCE {asked.source}")
    check_parts(weights, f"SOURCE {asked.source}")
    if weights.tokenizer is not None and TEXT.folder in weights.parts:
        CaptionTokenizer(weights.tokenizer, length=weights.parts[TEXT.folder].config.tokens)
    return weights


class _Form(NamedTuple):
    """What is written."""

    words: str
    write: Callable[[Path], None]
    notes: tuple[str, ...] = ()


def _form(weights: "Weights", asked: argparse.Namespace, target: Path) -> _Form:
    """The form in which the weights are written: what `--to` and TARGET's ending say."""
    from magicvideo_jax.weights.components import MOTION
    from magicvideo_jax.weights.motion_weights import motion_alone
    from magicvideo_jax.weights.tables.motion_keys import DIFFUSERS_KEYS
    from magicvideo_jax.weights.writing.file_forms import file_form_of
    from magicvideo_jax.weights.writing.write_folders import write_diffusers, write_jax
    from magicvideo_jax.weights.writing.write_motion import norm_warning, write_motion_adapter

    options = {"dtype": _dtype(asked.dtype), "progress": _progress}
    if _is_file(asked):
        file = file_form_of(weights, asked.to, target=target)
        write = partial(file.write, weights, **options)
        return _Form(f"a file of {file.words}", write, file.notes(weights))
    if asked.to == "motion_adapter" or set(weights.parts) == {MOTION.folder}:
        motion = motion_alone(weights, name=f"SOURCE {asked.source}")
        write = partial(write_motion_adapter, motion, **options)
        return _Form("a MotionAdapter", write, norm_warning(motion.config, DIFFUSERS_KEYS))
    if asked.to == "jax" or (asked.to is None and not weights.is_ours):
        return _Form("a JAX folder", partial(write_jax, weights, progress=_progress))
    return _Form("a diffusers folder", partial(write_diffusers, weights, **options))


def _dtype(name: str) -> type:
    import ml_dtypes
    import numpy as np

    return {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[name]


@contextlib.contextmanager
def _progress(name: str, total: int) -> "Iterator[Tick]":
    from magicvideo_jax.runtime.progress import Progress

    with Progress(total, name, unit="B") as progress:
        yield progress.advance


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m magicvideo_jax.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="SOURCE", help="folder or file to read")
    parser.add_argument(
        "target",
        metavar="TARGET",
        help="folder to write; for parts of a model also a .safetensors file",
    )
    parser.add_argument(
        "--to",
        choices=(*FOLDERS, *FILES, *TORCH_FILES, *LORA_FORMS),
        help="what to write (default: the other side of SOURCE's, and of motion modules alone "
        "motion_adapter; animatediff where TARGET ends in .safetensors)",
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
    parser.add_argument(
        "--vae",
        metavar="WEIGHTS",
        help="weights whose VAE is taken, where SOURCE has none or another",
    )
    parser.add_argument(
        "--text", metavar="WEIGHTS", help="weights whose text encoder is taken, likewise"
    )
    parser.add_argument(
        "--motion",
        metavar="WEIGHTS",
        default="",
        help="motion modules of AnimateDiff to put into SOURCE, image weights of 1.x",
    )
    parser.add_argument(
        "--motion_norm",
        choices=[norm.value for norm in MotionNorm],
        default=MotionNorm.AUTO.value,
        help="frames over which motion modules norm (default: as the program of their file does)",
    )
    parser.add_argument(
        "--lora",
        metavar="FILE:SCALE",
        action="append",
        default=[],
        help="a LoRA to add to the weights; may be given several times; without :SCALE, 1",
    )
    parser.add_argument(
        "--variant",
        default="",
        help="of a diffusers folder: which weight files, as in fp16 or non_ema (default: the plain ones)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
