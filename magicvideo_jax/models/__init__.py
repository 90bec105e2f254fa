"""The networks: the only Flax in the project.

`bind` turns a module into functions of a plain dict of parameters.
"""
