"""Sampling: text to keyframe latents, latents to pixels, clips to contact sheets."""
