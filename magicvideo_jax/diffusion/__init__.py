"""Diffusion as pure functions: schedule, process, guidance, samplers, loss. A network is just a `Denoise`."""
