"""Diffusion as pure functions: schedule, process, guidance, samplers.

A network is a `Denoise` function.
"""
