"""MagicVideo (arXiv 2211.11018) in JAX/Flax: text-to-video latent diffusion from Stable Diffusion weights.

import magicvideo_jax as mv
pipe = mv.load(WORKDIR)
mv.save_video(pipe("a red circle moving left", seed=0), "clip.mp4", fps=8)
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """Imported when first used: the commands share this package, and their help must not wait for JAX."""
    if name == "load":
        from magicvideo_jax.experiment.pipeline import load

        return load
    if name == "load_interpolation":
        from magicvideo_jax.experiment.cascade.frame_interpolation import load_interpolation

        return load_interpolation
    if name == "load_upscaling":
        from magicvideo_jax.experiment.cascade.clip_upscaling import load_upscaling

        return load_upscaling
    if name == "run_cascade":
        from magicvideo_jax.experiment.requests.cascade_run import run_cascade

        return run_cascade
    if name == "ClipRequest":
        from magicvideo_jax.experiment.requests.clip_request import ClipRequest

        return ClipRequest
    if name == "save_video":
        from magicvideo_jax.media.clip_files import save_video

        return save_video
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
