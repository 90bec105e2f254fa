"""LoRA files: read in every form that people have, and added to weights while these are read."""
