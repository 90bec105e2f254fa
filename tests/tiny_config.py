"""The tiny experiment as a config file: python -m magicvideo_jax.train --config=tests/tiny_config.py

With :spread, parameters are spread over `fsdp` that are really too small for it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from tiny_experiment import tiny

from magicvideo_jax.experiment.config import config_dict
from magicvideo_jax.parallel import shardings as rules


def get_config(preset: str = ""):
    if preset == "spread":
        rules.MIN_SHARDED_SIZE = 64
    return config_dict(tiny())
