"""Reading of PyTorch's files as data."""
