"""Key tables as data: what the parameters of each network are called in PyTorch's files."""
