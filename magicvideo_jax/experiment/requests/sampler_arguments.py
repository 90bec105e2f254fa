"""Arguments of a command line that say how a model is sampled: fields of a `ClipRequest`."""

import argparse


def add_sampler_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --sampler, --steps, --guidance and what belongs to them; without one, the model's config counts."""
    parser.add_argument(
        "--sampler",
        choices=("ddim", "dpm++2m", "unipc", "euler", "ddpm", "lcm", "lfdm"),
        help="default: the model's config",
    )
    parser.add_argument("--steps", type=int, help="denoising steps, of each network")
    parser.add_argument(
        "--guidance", type=float, help="scale of classifier-free guidance; 1 is none"
    )
    parser.add_argument(
        "--guidance_rescale",
        type=float,
        help="0 to 1: how far guidance keeps the contrast of unguided frames "
        "(default: the model's config)",
    )
    parser.add_argument(
        "--guidance_interval",
        metavar="LOW,HIGH",
        help="0 to 1: part of diffusion time in which guidance applies; steps outside it take half as long",
    )
    parser.add_argument(
        "--feature_cache",
        metavar="STEPS",
        type=int,
        help="evaluate the deeper levels of the network at every so many steps only",
    )
    parser.add_argument(
        "--eta", type=float, help="0 to 1: noise that the sampler ddim adds at every step"
    )
