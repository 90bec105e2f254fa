"""The tiny experiment as a config file: python -m magicvideo_jax.train --config=tests/tiny_config.py

With :spread, parameters are spread over `fsdp` that are really too small for it, and the U-Net has one level, because
every process compiles it.
"""

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from tiny_experiment import tiny

from magicvideo_jax.experiment.config import config_dict
from magicvideo_jax.models.unet import UNetLevelConfig
from magicvideo_jax.parallel.mesh import MeshConfig


def get_config(preset: str = ""):
    experiment = tiny()
    if preset == "spread":
        unet = replace(experiment.model.unet, levels=(UNetLevelConfig(8, 2),))
        model = replace(experiment.model, unet=unet)
        experiment = replace(experiment, model=model, mesh=MeshConfig(fsdp_min_size=64))
    return config_dict(experiment)
