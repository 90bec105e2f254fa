"""Command lines of verbs that take a config file: absl's flags, with every mistake as one line."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

from absl import flags

from magicvideo_jax.core.errors import UserError

_OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]+)")


def parse(check_field: Callable[[str], None]) -> None:
    """Read `sys.argv`; `check_field` raises the error for the dotted path of a field that does not exist.

    Errors: `UserError` for all that the command line or the config file gets wrong.
    """
    _check_file_is_there()
    try:
        rest = flags.FLAGS(sys.argv)[1:]
    except (flags.Error, OSError, AttributeError, KeyError, ValueError, TypeError) as error:
        for override in filter(None, map(_OVERRIDE.match, sys.argv)):
            check_field(override[1])
        raise UserError(f"--config: {error}") from None
    if rest:
        raise UserError(
            f"{rest[0]}: not understood; fields are given as --config.{rest[0].lstrip('-')}"
        )


def _check_file_is_there() -> None:
    """Before absl runs it, whose own message is a traceback."""
    for i, argument in enumerate(sys.argv):
        name, _, value = argument.partition("=")
        if name == "--config":
            file = (value or "".join(sys.argv[i + 1 : i + 2])).split(":")[0]
            if not Path(file).is_file():
                raise UserError(f"--config={file}: no such file; give one of configs/")
