"""The verbs run in the tests' process as `python -m` would run them: JAX is loaded, compiled programs are kept."""

import contextlib
import runpy
import shlex
import signal
import sys
from collections.abc import Iterator

import grain  # noqa: F401  its flags are defined when it is first imported: not in a program here
import pytest
from absl import flags


def run_main(arguments: list[str]) -> None:
    """Run a module or a file with its arguments; fail where it ends with an exit code."""
    with pytest.MonkeyPatch.context() as patch, as_it_was():
        patch.setattr(sys, "argv", arguments)
        patch.delitem(sys.modules, arguments[0], raising=False)  # other tests import it
        run = runpy.run_path if arguments[0].endswith(".py") else runpy.run_module
        code = None
        try:
            run(arguments[0], run_name="__main__")
        except SystemExit as end:
            code = end.code
        assert not code, f"{shlex.join(arguments)} ends with exit code {code}"


FLAGS_OF_VERBS: set[str] = set()
"""Names that a verb defines again when it runs; absl forgets whose they are once they are put back."""


@contextlib.contextmanager
def as_it_was() -> Iterator[None]:
    """Take back what a program leaves in its process: flags, the config that was read, and signal handlers."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    before = {name: flags.FLAGS[name] for name in flags.FLAGS}
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        if module.startswith("magicvideo_jax."):  # a verb that another test imported
            FLAGS_OF_VERBS.update(flag.name for flag in defined)
    for name in FLAGS_OF_VERBS & before.keys():
        delattr(flags.FLAGS, name)
    try:
        yield
    finally:
        for name in [name for name in flags.FLAGS if flags.FLAGS[name] is not before.get(name)]:
            delattr(flags.FLAGS, name)
        for name, flag in before.items():
            if name not in flags.FLAGS:
                flags.FLAGS[name] = flag
        sys.modules.pop("config_config", None)
        signal.set_wakeup_fd(-1)
        for number, handler in handlers.items():
            signal.signal(number, handler)
