"""A web page to sample, compare and watch runs, on this machine.

    pip install -r requirements-serve.txt
    python -m magicvideo_jax.serve --workdir=runs/demo

Several --workdir are several models; each is a work folder, `embedded`, or weights in any known
form. Work folders are also watched while they train. The page listens on 127.0.0.1 and fetches
nothing from elsewhere.
"""

import argparse
import importlib.util

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.runtime import processes
from magicvideo_jax.runtime.exit import exit_with

PORT = 7860
MOST_MEGABYTES = 64


def main() -> None:
    """Run `serve` with the arguments of the command line."""
    exit_with(lambda: serve(_arguments()), interrupted="the page has ended")


def serve(asked: argparse.Namespace) -> None:
    """Load the models, then serve the page until it is interrupted."""
    processes.refuse_several("serve")
    if importlib.util.find_spec("gradio") is None:
        raise UserError(
            "serve needs Gradio, which is not installed: pip install -r requirements-serve.txt"
        )
    if not 0 <= asked.port < 2**16:
        raise UserError(f"--port={asked.port}: give 0 (any that is free) to 65535")
    if asked.max_upload < 1:
        raise UserError(f"--max_upload={asked.max_upload}: give at least 1 (megabyte)")
    # Only now: Gradio takes seconds to import, and help and mistakes should not.
    from magicvideo_jax.serving.serving import ServeRequest, run_server

    run_server(
        ServeRequest(
            workdirs=tuple(asked.workdir or ("embedded_video",)),
            weights_dirs=tuple(asked.weights_dir),
            interpolate=asked.interpolate,
            upscale=asked.upscale,
            super_resolution=asked.super_resolution,
            host=asked.host,
            port=asked.port,
            most_bytes=asked.max_upload * 2**20,
        )
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m magicvideo_jax.serve",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--workdir",
        "--weights",
        action="append",
        help="a work folder of train, or weights; may be given several times (default: embedded_video, "
        "which comes with the package)",
    )
    parser.add_argument(
        "--weights_dir",
        action="append",
        default=[],
        help="a folder with LoRA files and motion modules to choose from; may be given several times",
    )
    parser.add_argument(
        "--interpolate",
        default="",
        help="lavie_interpolation.pt: refine uploaded clips, with the VAE and the text encoder of the "
        "first --workdir",
    )
    parser.add_argument(
        "--upscale",
        default="",
        help="a work folder of configs/super_resolution.py, or Stable Diffusion's x4 upscaler: refine uploaded clips",
    )
    parser.add_argument(
        "--super_resolution",
        default="",
        help="lavie_vsr.pt: its U-Net in the place of the upscaler's",
    )
    parser.add_argument(
        "--port", type=int, default=PORT, help=f"default: {PORT}; 0: any that is free"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1, this machine alone); 0.0.0.0: everyone who "
        "reaches this machine may sample and see the runs, so only behind something that asks who it is",
    )
    parser.add_argument(
        "--max_upload",
        type=int,
        default=MOST_MEGABYTES,
        help=f"megabytes (default: {MOST_MEGABYTES})",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
