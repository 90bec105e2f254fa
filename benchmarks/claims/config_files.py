"""Files of `configs/` by name, with changed fields, as the command line of `train` would give them."""

import importlib
from collections.abc import Mapping
from typing import Any

from magicvideo_jax.experiment.config import Experiment, check_field_exists, read_experiment


def experiment_of(name: str, changes: Mapping[str, Any] | None = None) -> Experiment:
    """The experiment of a config, `FILE` or `FILE:PRESET`, with fields changed by their dotted paths.

    Errors: `UserError` for an unknown preset or field, or a value out of range.
    """
    file, _, preset = name.partition(":")
    config = importlib.import_module(f"configs.{file}").get_config(preset)
    for path, value in (changes or {}).items():
        check_field_exists(path)
        *parents, field = path.split(".")
        part = config
        for parent in parents:
            part = part[parent]
        part[field] = value
    return read_experiment(config)
