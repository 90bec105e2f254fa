"""MagicVideo (arXiv 2211.11018) in JAX/Flax: text-to-video latent diffusion from Stable Diffusion weights."""
