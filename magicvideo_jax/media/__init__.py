"""Clip files: reading frames, decoder processes, writing clips and contact sheets."""
