"""What every file may use: shared types, named random keys, parameter trees, pixels, files and
errors.
"""
