"""Metrics of clips, one per file."""
