"""Weights written: folders of both sides, and files in the keys of other programs."""
