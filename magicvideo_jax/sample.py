"""Clips from a trained work folder.

    python -m magicvideo_jax.sample --workdir=DIR --prompt="a red circle moving left" --out=clip.mp4

The ending of --out says what is written: .mp4, .gif, or a folder of png.
"""

import argparse
import sys
from pathlib import Path

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.runtime.exit import exit_with


def main() -> None:
    """The verb."""
    exit_with(lambda: sample(_arguments()))


def sample(asked: argparse.Namespace) -> None:
    """Load, make, write."""
    if not asked.prompt.strip():
        raise UserError("--prompt is empty: say what is to be seen")
    if asked.num < 1:
        raise UserError(f"--num={asked.num}: give at least 1")
    # Only now: JAX takes seconds to import, and help and mistakes should not.
    from dataclasses import replace

    from magicvideo_jax.experiment.pipeline import load
    from magicvideo_jax.media.clip_files import check_ending, save_video
    from magicvideo_jax.sampling.keyframes import Sampler

    targets = [_numbered(Path(asked.out), i, asked.num) for i in range(asked.num)]
    check_ending(asked.out)
    print(
        f"writing {', '.join(map(str, targets[:3]))}{' ...' if len(targets) > 3 else ''}",
        file=sys.stderr,
    )
    pipe = load(asked.workdir, vae=asked.vae)
    pipe.decode_in_parts(frames=asked.decode_frames, tile=asked.tile)
    given = {
        name: getattr(asked, name)
        for name in ("steps", "guidance", "fps")
        if getattr(asked, name) is not None
    }
    if asked.sampler is not None:
        given["sampler"] = Sampler(asked.sampler)
    settings = replace(pipe.experiment.sample, **given)
    clips = pipe.many(
        [asked.prompt] * asked.num,
        settings,
        seed=asked.seed,
        frames=asked.frames,
        negative_prompt=asked.negative_prompt,
        batch_size=min(asked.num, 4),
    )
    for clip, target in zip(clips, targets, strict=True):
        save_video(clip, target, fps=settings.fps)


def _numbered(out: Path, i: int, count: int) -> Path:
    """clip.mp4 for one, clip_0.mp4, clip_1.mp4 .. for several."""
    return out if count == 1 else out.with_name(f"{out.stem}_{i}{out.suffix}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m magicvideo_jax.sample",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--workdir",
        required=True,
        help="a work folder of train; or weights (or `embedded`), for single frames",
    )
    parser.add_argument("--prompt", required=True, help="what is to be seen")
    parser.add_argument("--out", required=True, help="clip.mp4, clip.gif, or a folder for png")
    parser.add_argument(
        "--sampler",
        choices=("ddim", "dpm++2m", "euler", "ddpm"),
        help="default: the model's config",
    )
    parser.add_argument("--steps", type=int, help="denoising steps")
    parser.add_argument(
        "--guidance", type=float, help="scale of classifier-free guidance; 1 is none"
    )
    parser.add_argument(
        "--fps", type=float, help="frames per second: told to the model and written to the file"
    )
    parser.add_argument(
        "--frames", type=int, help="number of frames; at most what the model was trained for"
    )
    parser.add_argument(
        "--vae", default="", help="weights whose VAE decodes: a VideoVAE made of the model's VAE"
    )
    parser.add_argument(
        "--decode_frames", type=int, help="frames decoded together (default: the model's config)"
    )
    parser.add_argument(
        "--tile",
        type=int,
        help="latents along a side of the tiles in which frames are decoded; 0: none",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--negative_prompt", default="", help="what is not to be seen")
    parser.add_argument("--num", type=int, default=1, help="clips, each with noise of its own")
    return parser.parse_args()


if __name__ == "__main__":
    main()
