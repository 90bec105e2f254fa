"""Command lines of the verbs that take a config file: absl's flags, with every mistake as one
line.
"""

import sys
from pathlib import Path

from absl import flags

from magicvideo_jax.core.errors import UserError


def parse() -> None:
    """Read `sys.argv`. Errors: `UserError` for what it or the config file gets wrong."""
    _check_config_file()
    try:
        rest = flags.FLAGS(sys.argv)[1:]
    except AttributeError as error:
        raise UserError(f"--config: no such field ({error})") from None
    except (flags.Error, OSError, KeyError, ValueError, TypeError) as error:
        raise UserError(str(error)) from None
    if rest:
        raise UserError(
            f"{rest[0]}: not understood; fields are given as --config.{rest[0].lstrip('-')}"
        )


def _check_config_file() -> None:
    """`UserError` for a config file that does not exist; absl would end in a traceback."""
    for i, argument in enumerate(sys.argv):
        name, _, value = argument.partition("=")
        if name == "--config":
            file = (value or "".join(sys.argv[i + 1 : i + 2])).split(":")[0]
            if not Path(file).is_file():
                raise UserError(f"--config={file}: no such file; give one of configs/")
