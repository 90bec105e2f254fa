"""MagicVideo (arXiv 2211.11018) in JAX/Flax: text-to-video latent diffusion from Stable Diffusion weights.

import magicvideo_jax as mv
pipe = mv.load(WORKDIR)
mv.save_video(pipe("a red circle moving left", seed=0), "clip.mp4", fps=8)
"""

from importlib import import_module
from typing import Any

_MODULES = {
    "load": "experiment.pipeline",
    "load_interpolation": "experiment.cascade.frame_interpolation",
    "load_upscaling": "experiment.cascade.clip_upscaling",
    "run_cascade": "experiment.requests.cascade_run",
    "ClipRequest": "experiment.requests.clip_request",
    "save_video": "media.clip_files",
}


def __getattr__(name: str) -> Any:
    """Imported when first used: the commands share this package, and their help must not wait for JAX."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
