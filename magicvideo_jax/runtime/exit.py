"""The one place that turns what ends a verb into a line on stderr and an exit code."""

import contextlib
import sys
from collections.abc import Callable

from magicvideo_jax.core.errors import UserError, WriteFailed
from magicvideo_jax.runtime import processes
from magicvideo_jax.runtime.job_end import end_at_once, end_together, report
from magicvideo_jax.runtime.preemption import EXIT_PREEMPTED, Preempted
from magicvideo_jax.runtime.progress import say


def exit_with(verb: Callable[[], None], *, interrupted: str = "interrupted") -> None:
    """Run a verb. Returns when it, and the verb of every other process of the job, ended well.

    A `UserError` becomes one line and exit code 2, `Preempted` its line and 75, Ctrl-C the line
    `interrupted` and 130; anything else keeps its traceback (1). Of several processes all end with
    the code of the first that fails.
    """
    try:
        code = _code_of(verb)
        end_together()
    except (Exception, KeyboardInterrupt) as error:
        several = processes.process_count() > 1
        if not several and not isinstance(error, UserError | KeyboardInterrupt):
            raise
        code = report(error, interrupted=interrupted)
        # After a failed write the threads of libraries that write would each say the same again.
        if several or isinstance(error, WriteFailed):
            with contextlib.suppress(OSError):
                sys.stdout.flush()
            end_at_once(code)
    if code:
        sys.exit(code)


def _code_of(verb: Callable[[], None]) -> int:
    try:
        verb()
    except Preempted as preempted:
        say(str(preempted))
        return EXIT_PREEMPTED
    return 0
