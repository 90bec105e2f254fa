"""The tiny experiment as a config file: python -m magicvideo_jax.train --config=tests/tiny_config.py

With :spread, parameters are spread over `fsdp` that are really too small for it.
"""

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from tiny_experiment import tiny

from magicvideo_jax.experiment.config import config_dict
from magicvideo_jax.parallel.mesh import MeshConfig


def get_config(preset: str = ""):
    mesh = MeshConfig(fsdp_min_size=64) if preset == "spread" else MeshConfig()
    return config_dict(replace(tiny(), mesh=mesh))
