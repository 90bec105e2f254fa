"""Clips and captions: drawn shapes, video files, data sets, the loader."""
