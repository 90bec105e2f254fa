"""Drawn clips: one shape of one colour in one motion, with captions in many wordings."""
