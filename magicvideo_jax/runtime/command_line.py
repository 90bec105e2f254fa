"""Command lines of verbs that take a config file: absl's flags, with every mistake as one line."""

import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from absl import flags

from magicvideo_jax.core.errors import UserError
from magicvideo_jax.core.paths import local_path

_PACKAGE = Path(__file__).parent.parent
CONFIGS = next(
    (folder for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if folder.is_dir()),
    _PACKAGE / "configs",
)
"""Folder of the configs that come with the package: inside it when installed, beside it in a checkout."""

_OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]+)")


def parse(check_field: Callable[[str], None]) -> None:
    """Read `sys.argv` into absl's flags; `check_field` raises the error for the dotted path of an unknown field.

    Errors: `UserError` for all that the command line or the config file gets wrong.
    """
    arguments, config = _with_config_path(sys.argv)
    try:
        rest = flags.FLAGS(arguments)[1:]
        # ml_collections keeps an OSError of the config file back until the config is looked at.
        getattr(flags.FLAGS.config, "lock", None)
    except UserError:
        raise
    except Exception as error:
        if _line_of_config(error, config) is None:
            for override in filter(None, map(_OVERRIDE.match, arguments)):
                check_field(override[1])
        raise UserError(_explanation(error, config, arguments)) from error
    if rest:
        raise UserError(
            f"{rest[0]}: not understood; fields are given as --config.{rest[0].lstrip('-')}"
        )


def config_path(text: str) -> str:
    """Path of a config file, or of a config that comes with the package, followed by its `:PRESET`.

    A file that exists comes first. Then `t2v:sd15`, `t2v.py:sd15` and `configs/t2v.py:sd15` name the same preset, from
    any folder. Errors: `UserError` with the names that exist.
    """
    if "://" in text:
        local_path(text, argument="--config")  # refuses it
    name, colon, preset = text.partition(":")
    given = local_path(name, argument="--config")
    if given.is_file():
        return f"{given}{colon}{preset}"
    known = {path.stem: path for path in CONFIGS.glob("[!_]*.py")}
    stem = name.removeprefix("configs/").removesuffix(".py")
    if stem in known:
        return f"{known[stem]}{colon}{preset}"
    raise UserError(
        f"--config={name}: no such file; give a file, or one of {', '.join(sorted(known))}"
    )


def _with_config_path(arguments: list[str]) -> tuple[list[str], str]:
    """The command line with `--config` as a path that absl can open, and that path without its preset."""
    found, path, is_value = [], "", False
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if is_value:
            argument = path = config_path(argument)
        elif name in ("--config", "-config") and equals:
            path = config_path(value)
            argument = f"--config={path}"
        is_value = argument in ("--config", "-config")
        found.append(argument)
    return found, path.partition(":")[0]


def _explanation(error: BaseException, config: str, arguments: list[str]) -> str:
    """One line on what absl's flags or a config file raised."""
    line = _line_of_config(error, config)
    if line is not None:
        return f"--config={config}, {line}"
    if isinstance(error, AttributeError) and error.name == "get_config":
        return f"--config={config}: it defines no get_config(preset): write one, as configs/ do"
    if isinstance(error, AttributeError | KeyError):
        return _unknown_field(str(error), arguments)
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0] if len(lines) == 1 else f"--config={config}: {lines[-1]}"


def _line_of_config(error: BaseException, config: str) -> str | None:
    """The line of the config file that raised the error, and the error; None if it was raised elsewhere."""
    cause: BaseException | None = error
    while config and cause is not None:
        kind = type(cause).__name__
        if isinstance(cause, SyntaxError) and cause.filename == config:
            return f"line {cause.lineno}: {kind}: {cause.msg}"
        for frame in reversed(traceback.extract_tb(cause.__traceback__)):
            if frame.filename == config:
                return f"line {frame.lineno}: {kind}: {cause}"
        cause = cause.__cause__ or cause.__context__
    return None


def _unknown_field(said: str, arguments: list[str]) -> str:
    """ml_collections says `'lrr'`, or `'lrr' Did you mean "lr" instead of "lrr"?`; users need the whole path."""
    wrong, *hint = re.findall(r"\w+", said.replace("\\n", " ")) or [""]
    suggestion = f"; did you mean {hint[3]}" if hint[:3] == ["Did", "you", "mean"] else ""
    for argument in arguments:
        flag, *path = argument.partition("=")[0].lstrip("-").split(".")
        if flag == "config" and wrong in path:
            return f"config.{'.'.join(path)}: no such field{suggestion}"
    return f"--config: no such field ({said})"
