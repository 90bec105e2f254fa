"""Diffusion as pure functions: schedule, process, guidance, samplers and loss.

A network is a `Denoise` function.
"""
