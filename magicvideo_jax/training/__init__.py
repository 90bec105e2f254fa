"""Training: the state, the one step, an objective a stage, checkpoints, the loop."""
