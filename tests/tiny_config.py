"""The tiny experiment as a config file: python -m magicvideo_jax.train --config=tests/tiny_config.py"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from tiny_experiment import tiny

from magicvideo_jax.experiment.config import config_dict


def get_config():
    return config_dict(tiny())
