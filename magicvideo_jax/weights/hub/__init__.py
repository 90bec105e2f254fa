"""Weights by name on the Hugging Face Hub: the name, the files that are read, the fetch, its errors."""
