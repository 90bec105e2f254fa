"""Clips from a trained work folder.

    python -m magicvideo_jax.sample --workdir=DIR --prompt="a red circle moving left" --out=clip.mp4

    python -m magicvideo_jax.sample --weights=SD15 --motion=v3_sd15_mm.ckpt --prompt="..." --out=clip.mp4

The second form puts motion modules of AnimateDiff into image weights. Two more networks make of a clip one with four
times the frames, then with four times the height and width:

    python -m magicvideo_jax.sample --prompt="a red heart moving left" --interpolate=embedded_interpolation \
      --upscale=embedded_upscaler --keep=stages --out=clip.mp4

LaVie on Stable Diffusion 1.4, where the last three arguments may be left out:

    python -m magicvideo_jax.sample --weights=SD14 --unet=lavie_base.pt --prompt="a panda" --out=clip.mp4 \
      --interpolate=lavie_interpolation.pt --upscale=X4_UPSCALER --super_resolution=lavie_vsr.pt

The ending of --out says what is written: .mp4, .gif, or a folder of png.
"""

import argparse
import dataclasses
import sys
from typing import Any, TypeVar

from magicvideo_jax.core.checks import named
from magicvideo_jax.core.errors import UserError
from magicvideo_jax.experiment.requests.clip_request import (
    ClipRequest,
    ModelRequest,
    SourceRequest,
    parse_interval,
    parse_size,
)
from magicvideo_jax.experiment.requests.sampler_arguments import add_sampler_arguments
from magicvideo_jax.models.temporal import MotionNorm
from magicvideo_jax.runtime import processes
from magicvideo_jax.runtime.exit import exit_with

Request = TypeVar("Request", ClipRequest, ModelRequest, SourceRequest)


def main() -> None:
    """Run `sample` with the arguments of the command line."""
    exit_with(lambda: sample(_arguments()))


def sample(asked: argparse.Namespace) -> None:
    """Load the weights, sample clips and write them."""
    processes.refuse_several("sample")
    with named("--"):
        size, interval = parse_size(asked.size), parse_interval(asked.guidance_interval)
        requests = [
            _request(ClipRequest, asked, size=size, guidance_interval=interval, prompt=prompt)
            for prompt in asked.prompt or [""]
        ]
        source = _request(SourceRequest, asked)
    if not asked.prompt and not source.variation:
        raise UserError("--prompt: give a text, or a picture in its place as --variation")
    model = _request(ModelRequest, asked, lora=tuple(asked.lora))
    # Only now: JAX takes seconds to import, and help and mistakes should not.
    from magicvideo_jax.experiment.requests import cascade_run, clip_making
    from magicvideo_jax.media.clip_files import check_clip_target, numbered_targets, save_video
    from magicvideo_jax.media.contact_sheet import moving_sheet

    for request in requests:
        clip_making.check_clip_request(request, source)
    clip_making.check_model_request(model)
    number = 1 if asked.sheet else len(requests) * asked.num
    targets = numbered_targets(asked.out, number, argument="--out")
    for target in targets:
        check_clip_target(target, argument="--out")
    if asked.keep:
        cascade_run.check_kept_folder(asked.keep)
    print(
        f"writing {', '.join(map(str, targets[:3]))}{' ...' if len(targets) > 3 else ''}",
        file=sys.stderr,
    )
    cascade = (clip_making.load_model(model), *clip_making.open_refiners(model))
    out = () if asked.sheet else targets
    made = cascade_run.run_cascade(cascade, requests, source, keep=asked.keep, out=out)
    if not asked.sheet:
        for clips in made:
            clips.read()
        return
    sampled = [clips.whole() for clips in made]
    prompts = [request.prompt for request in requests for _ in range(request.num)]
    sheet = moving_sheet([clip for one in sampled for clip in one.clips], prompts)
    save_video(sheet, asked.out, fps=sampled[0].fps)


def _request(kind: type[Request], asked: argparse.Namespace, **read: Any) -> Request:
    """A request of the arguments that have its fields' names, but for those `read` already."""
    fields = {field.name: getattr(asked, field.name) for field in dataclasses.fields(kind)}
    return kind(**{**fields, **read})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m magicvideo_jax.sample",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--workdir",
        "--weights",
        default="embedded_video",
        help="a work folder of train, or weights; image weights give single frames, or clips with "
        "--unet or --motion (default: %(default)s, a small model of drawn shapes that comes with "
        "the package; `embedded` is its image model)",
    )
    parser.add_argument(
        "--unet",
        default="",
        help="weights whose U-Net takes the place of that of --weights: lavie_base.pt",
    )
    parser.add_argument(
        "--motion",
        default="",
        help="AnimateDiff's motion modules, for image weights of Stable Diffusion 1.x",
    )
    parser.add_argument(
        "--motion_norm",
        choices=[norm.value for norm in MotionNorm],
        default=MotionNorm.AUTO.value,
        help="frames over which motion modules norm; the same modules give other clips under each "
        "(default: as the program of their file does)",
    )
    parser.add_argument(
        "--prompt",
        default=[],
        action="append",
        help="text prompt; may be given several times, for clips from the same noise",
    )
    parser.add_argument("--out", required=True, help="clip.mp4, clip.gif, or a folder for png")
    parser.add_argument(
        "--sheet",
        action="store_true",
        help="write all clips side by side into one file, each over its prompt",
    )
    add_sampler_arguments(parser)
    parser.add_argument(
        "--fps", type=float, help="frames per second: condition of the model, and rate of the file"
    )
    parser.add_argument(
        "--frames",
        type=int,
        help="number of frames, at most as many as the model was trained on, or more with "
        "--context_frames",
    )
    parser.add_argument(
        "--size",
        metavar="HEIGHTxWIDTH",
        help="pixels, multiples of 8 (default: those of the clips that the model was trained on)",
    )
    _add_sources(parser.add_argument_group("clips from pictures and clips"))
    _add_long_clips(parser.add_argument_group("long clips"))
    _add_refiners(parser.add_argument_group("more frames and pixels"))
    _add_split(parser.add_argument_group("several devices for one clip"))
    parser.add_argument(
        "--vae", default="", help="weights of a VideoVAE made of the model's VAE, to decode"
    )
    parser.add_argument(
        "--lora",
        metavar="FILE:SCALE",
        action="append",
        default=[],
        help="a LoRA to add (kohya's, diffusers', PEFT's, MotionLoRA, domain adapter); may be given "
        "several times; without :SCALE, 1",
    )
    parser.add_argument(
        "--decode_frames", type=int, help="frames decoded together (default: the model's config)"
    )
    parser.add_argument(
        "--tile",
        type=int,
        help="side in latents of the tiles in which frames are decoded; 0: whole frames",
    )
    parser.add_argument("--seed", type=int, default=0, help="from 0 to 2^63-1")
    parser.add_argument("--negative_prompt", default="", help="prompt to steer away from")
    parser.add_argument("--num", type=int, default=1, help="number of clips, each from other noise")
    return parser.parse_args()


def _add_sources(group: argparse._ArgumentGroup) -> None:
    """Arguments for what a clip starts from."""
    group.add_argument(
        "--image", metavar="FILE", default="", help="a picture that shall be the first frame"
    )
    group.add_argument(
        "--video",
        metavar="FILE",
        default="",
        help="a clip that goes on, or with --strength one that is edited",
    )
    group.add_argument(
        "--variation",
        metavar="FILE",
        default="",
        help="a picture in place of --prompt, for a model that was trained with image prompts",
    )
    group.add_argument(
        "--strength", type=float, help="0 to 1: how much --video is changed; 1 leaves nothing of it"
    )
    group.add_argument(
        "--known_frames",
        type=int,
        help="frames at the end of --video that the clip begins with, and that each window of a longer clip "
        "takes over from the last (default: 4)",
    )


def _add_long_clips(group: argparse._ArgumentGroup) -> None:
    """Arguments for clips longer than those that a model was trained on, and for steadier ones."""
    group.add_argument(
        "--context_frames",
        type=int,
        help="sample more --frames than the model was trained on, in overlapping windows of so "
        "many",
    )
    group.add_argument(
        "--context_fuse",
        choices=("output", "attention"),
        help="average what the network predicts for windows (default), or, with AnimateDiff's "
        "motion modules, their attention to windows, which is smoother and takes more memory",
    )
    group.add_argument(
        "--context_overlap",
        type=int,
        help="frames that windows share (default: 4); more hide seams better and take longer",
    )
    group.add_argument(
        "--context_stride",
        type=int,
        help="2 or 3: add windows of every second, and of every fourth frame, which hold a long "
        "clip together and take longer (default: 1)",
    )
    group.add_argument(
        "--context_loop",
        action=argparse.BooleanOptionalAction,
        help="the last frame leads to the first",
    )
    group.add_argument(
        "--context_reuse_noise",
        action=argparse.BooleanOptionalAction,
        help="later windows start from the first one's noise, so that the content changes less "
        "(FreeNoise)",
    )
    group.add_argument(
        "--free_init",
        type=int,
        metavar="TIMES",
        help="3 to 5: sample a clip so many times, each from noise refined by the last result, "
        "against flicker (FreeInit)",
    )


def _add_refiners(group: argparse._ArgumentGroup) -> None:
    """Arguments for networks that make of a clip a better one."""
    group.add_argument(
        "--interpolate",
        metavar="WEIGHTS",
        default="",
        help="a work folder of configs/interpolation.py, or embedded_interpolation: 61 frames of 16, at four times "
        "the frame rate; or lavie_interpolation.pt, at three times; a U-Net alone takes the VAE and the text encoder "
        "of --weights",
    )
    group.add_argument(
        "--upscale",
        metavar="WEIGHTS",
        default="",
        help="a work folder of configs/super_resolution.py, embedded_upscaler, or Stable Diffusion's x4 upscaler: "
        "four times the height and width",
    )
    group.add_argument(
        "--super_resolution",
        metavar="WEIGHTS",
        default="",
        help="lavie_vsr.pt: its U-Net takes the place of that of --upscale, which upscales every "
        "frame by itself",
    )
    group.add_argument(
        "--upscale_tile",
        type=int,
        metavar="PIXELS",
        help="side of the parts of small frames that are enlarged at once, less for less memory; 0: whole "
        "frames (default: as the weights say)",
    )
    group.add_argument(
        "--keep",
        metavar="DIR",
        default="",
        help="a folder for the clips of every stage: 0_keyframes.mp4, 1_interpolated.mp4, 2_upscaled.mp4",
    )


def _add_split(group: argparse._ArgumentGroup) -> None:
    """Arguments for how the devices of this machine share a clip."""
    group.add_argument(
        "--split",
        choices=("none", "latents", "frames"),
        default="none",
        help="none: each device samples clips of its own (default); frames: devices share the frames of each layer, "
        "for fast networks between them; latents: they share overlapping parts of the latents, an approximation "
        "that sends little (Latent Parallelism)",
    )
    group.add_argument(
        "--split_parts",
        type=int,
        default=0,
        help="devices that share a clip (default: all); on one device, parts that are evaluated one after the other",
    )
    group.add_argument(
        "--split_axes",
        default="t",
        help="axes of the latents of which one is split at each step, in turn: t, or thw as in the paper (default: t)",
    )
    group.add_argument(
        "--split_overlap",
        type=float,
        default=0.5,
        help="what a part has beside its own share of the clip, as a fraction of that share (default: 0.5)",
    )


if __name__ == "__main__":
    main()
