"""Errors a user can cause."""

EXIT_USER_ERROR = 2
"""Exit code of a verb that ends with a `UserError`."""


class UserError(Exception):
    """A mistake the user can mend. The message is one line: the argument, file or row, and what to do."""


class WriteFailed(UserError):
    """A write failed (disk full, quota). Pending asynchronous writes cannot finish either."""
