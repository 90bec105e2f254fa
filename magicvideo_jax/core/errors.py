"""Errors a user can cause, and the one place that turns them into a line and an exit code."""

import os
import sys
from collections.abc import Callable

EXIT_USER_ERROR = 2


class UserError(Exception):
    """Something the user can mend. The message is one line: the argument, file or row, and what to do."""


class NotSaved(UserError):
    """Of a disk that takes no more. What waits to be written, on this host and others, waits in vain."""


def exit_with(verb: Callable[[], None]) -> None:
    """Run a verb; a `UserError` becomes one line on stderr and exit code 2, anything else keeps its traceback. After
    `NotSaved` the process ends there and then: the threads of libraries that write would each say the same again, and
    on several hosts JAX's end waits for the others, who wait for this one."""
    try:
        verb()
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        if isinstance(error, NotSaved):
            os._exit(EXIT_USER_ERROR)
        sys.exit(EXIT_USER_ERROR)
