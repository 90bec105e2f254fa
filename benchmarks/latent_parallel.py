"""How far clips whose latents are split are from whole ones, by number of parts, overlap and axes.

python benchmarks/latent_parallel.py [--workdir embedded_video] [--clips 32] [--seed 2201]

Clips of held-out captions of drawn scenes, from the same noise, sampled by the parts of each split one after the other
on one device, which gives what several devices would. Prints a row of a Markdown table for each split: median relative
distance of the latents, mean PSNR of the pixels, shares of shape, colour and motion that are read back, and flicker in
levels.
"""

import argparse
import sys
from dataclasses import replace

import numpy as np

import magicvideo_jax as mv
from magicvideo_jax.data.drawn.shape_clips import held_out_scenes
from magicvideo_jax.evaluation.caption_accuracy import caption_accuracy
from magicvideo_jax.evaluation.motion import flicker
from magicvideo_jax.evaluation.psnr import psnr
from magicvideo_jax.experiment.generator import SampleRequest
from magicvideo_jax.runtime.exit import exit_with
from magicvideo_jax.sampling.clip_split import SplitConfig, SplitKind

SPLITS = (
    ("t", 2, 0.0),
    ("t", 2, 0.5),
    ("t", 4, 0.0),
    ("t", 4, 0.5),
    ("t", 4, 1.0),
    ("t", 8, 1.0),
    ("h", 2, 0.5),
    ("thw", 2, 0.5),
    ("thw", 4, 1.0),
)
"""Axes, parts and overlap of each row."""


def main() -> None:
    """Sample, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", default="embedded_video")
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--seed", type=int, default=2201, help="of the held-out scenes")
    parser.add_argument("--batch_size", type=int, default=8)
    asked = parser.parse_args()
    exit_with(lambda: compare(asked.workdir, asked.clips, asked.seed, asked.batch_size))


def compare(workdir: str, clips: int, seed: int, batch_size: int) -> None:
    """Print the table. Errors: `UserError` for splits that do not fit the model's clips."""
    pipe, scenes = mv.load(workdir), held_out_scenes(seed, clips)
    usual, truths = pipe.experiment.sample, [scene.truth for scene in scenes]
    request = SampleRequest([scene.caption for scene in scenes], [usual.fps] * clips)

    def sampled(split: SplitConfig) -> tuple[np.ndarray, np.ndarray]:
        z = pipe.latents(request, replace(usual, split=split), batch_size=batch_size)
        return z, pipe.decoded(z, batch_size=batch_size)

    def row(name: str, z: np.ndarray, pixels: np.ndarray) -> str:
        difference = np.sqrt(((z - z_whole) ** 2).sum((1, 2, 3, 4)))
        distance = np.median(difference / np.sqrt((z_whole**2).sum((1, 2, 3, 4))))
        decibels = "-" if pixels is whole else f"{psnr(pixels, whole).mean():.1f}"
        read = caption_accuracy(list(pixels), truths)
        shares = " ".join(f"{read[kind]:.2f}" for kind in ("shape", "colour", "motion"))
        flickers = np.mean([flicker(clip) for clip in pixels])
        return f"| {name} | {distance:.3f} | {decibels} | {shares} | {flickers:.2f} |"

    print("| split | latents | PSNR, dB | shape, colour, motion | flicker |\n|---|---|---|---|---|")
    z_whole, whole = sampled(SplitConfig())
    print(row("none", z_whole, whole), flush=True)
    for axes, parts, overlap in SPLITS:
        z, pixels = sampled(SplitConfig(SplitKind.LATENTS, parts, axes, overlap))
        print(row(f"{axes}, {parts} parts, overlap {overlap:g}", z, pixels), flush=True)
        print(f"{axes} {parts} {overlap}: done", file=sys.stderr)


if __name__ == "__main__":
    main()
