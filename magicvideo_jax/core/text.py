"""Text from outside: file names, arguments and JSON may hold what is not UTF-8."""

import os


def is_utf8(text: str) -> bool:
    """Whether text can be written as UTF-8: bytes of file names, or halves of pairs, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(name: str) -> str:
    """A file name on one line: control characters and bytes that are not UTF-8 as escapes."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )
