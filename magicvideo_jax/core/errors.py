"""Errors a user can cause, and the one place that turns them into a line and an exit code."""

import sys
from collections.abc import Callable

EXIT_USER_ERROR = 2


class UserError(Exception):
    """Something the user can mend. The message is one line: the argument, file or row, and what to do."""


def exit_with(verb: Callable[[], None]) -> None:
    """Run a verb; a `UserError` becomes one line on stderr and exit code 2, anything else keeps its traceback."""
    try:
        verb()
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
