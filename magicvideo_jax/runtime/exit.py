"""The one place that turns errors into a line on stderr and an exit code."""

import os
import sys
from collections.abc import Callable

from magicvideo_jax.core.errors import EXIT_USER_ERROR, UserError, WriteFailed


def exit_with(verb: Callable[[], None]) -> None:
    """Run a verb; a `UserError` becomes one line on stderr and exit code 2, anything else keeps its traceback. After
    `WriteFailed` the process ends at once: the threads of libraries that write would each say the same again, and
    on several hosts JAX's end waits for the others, who wait for this one."""
    try:
        verb()
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        if isinstance(error, WriteFailed):
            os._exit(EXIT_USER_ERROR)
        sys.exit(EXIT_USER_ERROR)
