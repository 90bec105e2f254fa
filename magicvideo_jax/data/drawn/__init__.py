"""Synthetic clips of one moving shape, with captions in many wordings."""
