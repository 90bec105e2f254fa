"""Sampling: text to keyframe latents, latents to pixels."""
