"""A folder of clips, and captions, to a data set that `train` reads.

    python -m magicvideo_jax.prepare --videos=DIR --captions=FILE --out=DIR --vae=WEIGHTS
    python -m magicvideo_jax.prepare --videos=DIR --captions=FILE --out=DIR --check

Captions: a .csv, .tsv or .jsonl file with the columns video and caption, WebVid's own, or none: then a .txt beside each
clip. Rerun after any interruption: what is there is kept. The processes of launch/ share the work; machines that know
nothing of one another share it by --part=0/4 .. --part=3/4. In both, one --out.
"""

import argparse

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.paths import local_path
from magicvideo_jax.runtime import processes
from magicvideo_jax.runtime.exit import exit_with


def main() -> None:
    """The verb."""
    exit_with(lambda: prepare(_arguments()))


def prepare(asked: argparse.Namespace) -> None:
    """Find, check, make."""
    processes.join()
    # Only now: help and mistakes should not wait for what these import.
    from magicvideo_jax.preparation.command import PrepareRequest, check_data_set, prepare_data_set
    from magicvideo_jax.preparation.data_set import ClipSamplingConfig

    request = PrepareRequest(
        videos=local_path(asked.videos, argument="--videos"),
        captions=local_path(asked.captions, argument="--captions") if asked.captions else None,
        out=local_path(asked.out, argument="--out"),
        vae=asked.vae,
        text=asked.text,
        pixels=asked.pixels,
        look=ClipSamplingConfig(
            frames=asked.frames,
            sizes=_sizes(asked.size),
            fps=_range("--fps", asked.fps),
            seed=asked.seed,
            validation=asked.validation,
            per_shard=asked.per_shard,
        ),
        workers=asked.workers,
        timeout=asked.timeout,
        part=_part(asked.part),
    )
    (check_data_set if asked.check else prepare_data_set)(request)


def _range(argument: str, text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split("-"))
    except ValueError:
        raise UserError(f"{argument}={text}: give two numbers, as in 1-24") from None
    return low, high


def _sizes(text: str) -> tuple[tuple[int, int], ...]:
    """Height and width of each."""
    sizes = []
    for one in text.split(","):
        try:
            width, height = (int(side) for side in (one.split("x") if "x" in one else (one, one)))
        except ValueError:
            raise UserError(
                f"--size={text}: give pixels, as in 64, or sizes, as in 64x64,80x48,48x80"
            ) from None
        sizes.append((height, width))
    return tuple(sizes)


def _part(text: str | None) -> tuple[int, int]:
    if text is None:
        return processes.process_index(), processes.process_count()
    try:
        part, parts = (int(number) for number in text.split("/"))
    except ValueError:
        part, parts = 0, 0
    if not 0 <= part < parts:
        raise UserError(
            f"--part={text}: give the number of this process and how many there are, from 0/4 to 3/4"
        )
    return part, parts


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m magicvideo_jax.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--videos", required=True, help="folder of clips: mp4, mkv, webm, mov, avi, gif, webp .."
    )
    parser.add_argument("--captions", help="csv, tsv or jsonl (default: a .txt beside each clip)")
    parser.add_argument("--out", required=True, help="folder of the data set")
    parser.add_argument(
        "--vae", default="embedded", help="weights, a work folder, TAESD's files, or `embedded`"
    )
    parser.add_argument(
        "--text",
        help="keep a text encoder's states, too: weights as for --vae (default: captions alone)",
    )
    parser.add_argument(
        "--pixels", action="store_true", help="keep frames, not latents: to train VAEs"
    )
    parser.add_argument("--frames", type=int, default=16, help="frames that are kept of a clip")
    parser.add_argument(
        "--size",
        default="64",
        help="pixels a side, or WxH, or of several the nearest: 64x64,80x48,48x80",
    )
    parser.add_argument(
        "--fps", default="1-24", help="frame rates that a clip may be looked at with"
    )
    parser.add_argument(
        "--validation", type=float, default=0.05, help="share of clips kept for evaluation"
    )
    parser.add_argument("--per_shard", type=int, default=256, help="clips a file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes that decode")
    parser.add_argument(
        "--timeout", type=float, default=60.0, help="seconds after which a clip is skipped"
    )
    parser.add_argument(
        "--part", help="which part of the shards this process makes, as in 0/4 (default: its share)"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="look at the input, say what would happen, write a sheet",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
