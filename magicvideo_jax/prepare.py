"""Clips and captions to a data set that `train` reads.

    python -m magicvideo_jax.prepare --videos=DIR --captions=FILE --out=DIR --vae=WEIGHTS
    python -m magicvideo_jax.prepare --videos=DIR --captions=FILE --out=DIR --check

Captions: a .csv, .tsv, .json or .jsonl file with columns for clip and caption (video, caption;
path, text; file_name, text; WebVid's; others by --video_column and --caption_column), a .txt of
captions beside a videos.txt, or none: then a .txt beside each clip. Run it again after any
interruption: finished shards are kept. The processes of launch/ share the work; machines that know
nothing of one another share it by --part=0/4 .. --part=3/4. In both cases, with one --out.
"""

import argparse

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.paths import local_path
from magicvideo_jax.runtime import processes
from magicvideo_jax.runtime.exit import exit_with


def main() -> None:
    """Run `prepare` with the arguments of the command line."""
    exit_with(lambda: prepare(_arguments()))


def prepare(asked: argparse.Namespace) -> None:
    """Write a data set, or report what would be written (`--check`)."""
    processes.join()
    # Imported here: help and mistakes must not wait for it.
    from magicvideo_jax.preparation.command import PrepareRequest, prepare_data_set
    from magicvideo_jax.preparation.input_check import check_input
    from magicvideo_jax.preparation.shards import ClipSamplingConfig

    captions = asked.captions
    request = PrepareRequest(
        videos=local_path(asked.videos, argument="--videos"),
        captions=None if captions is None else local_path(captions, argument="--captions"),
        out=local_path(asked.out, argument="--out"),
        vae=asked.vae,
        text=asked.text,
        pixels=asked.pixels,
        sampling=ClipSamplingConfig(
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
        video_column=asked.video_column,
        caption_column=asked.caption_column,
    )
    (check_input if asked.check else prepare_data_set)(request)


def _range(argument: str, text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split("-"))
    except ValueError:
        raise UserError(f"{argument}={text}: give two numbers, as in 1-24") from None
    return low, high


def _sizes(text: str) -> tuple[tuple[int, int], ...]:
    """Height and width of each size."""
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
    parser.add_argument(
        "--captions", help="csv, tsv, json, jsonl or txt (default: a .txt beside each clip)"
    )
    parser.add_argument(
        "--video_column", default="", help="column of the clips' paths (default: recognised)"
    )
    parser.add_argument(
        "--caption_column", default="", help="column of the captions (default: recognised)"
    )
    parser.add_argument("--out", required=True, help="folder of the data set")
    parser.add_argument(
        "--vae", default="embedded", help="weights, a work folder, TAESD's files, or `embedded`"
    )
    parser.add_argument(
        "--text",
        help="also store a text encoder's states: weights as for --vae (default: captions alone)",
    )
    parser.add_argument(
        "--pixels", action="store_true", help="store frames instead of latents: to train VAEs"
    )
    parser.add_argument("--frames", type=int, default=16, help="frames per stored clip")
    parser.add_argument(
        "--size",
        default="64",
        help="pixels a side, or WxH, or several, of which each clip uses the nearest in aspect "
        "ratio: 64x64,80x48,48x80",
    )
    parser.add_argument("--fps", default="1-24", help="range of sampling frame rates")
    parser.add_argument(
        "--validation", type=float, default=0.05, help="fraction of clips held out for evaluation"
    )
    parser.add_argument("--per_shard", type=int, default=256, help="clips per file")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of frames")
    parser.add_argument("--workers", type=int, default=2, help="decoder processes")
    parser.add_argument(
        "--timeout", type=float, default=60.0, help="seconds until a clip is skipped"
    )
    parser.add_argument(
        "--part", help="part of the shards that this process writes, as in 0/4 (default: its share)"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="read the input, say what would be written and left out, and draw a sheet of clips",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
