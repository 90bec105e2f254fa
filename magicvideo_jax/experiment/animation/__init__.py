"""Latent flow diffusion (LFDM): pictures that are animated, by the networks of an experiment."""
