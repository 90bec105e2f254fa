"""Slots of `benchmarks/device.py`: what is measured on a GPU."""
