"""PyTorch weights <-> Flax parameters: key tables as data, strict both ways, streamed tensor by
tensor."""
