"""Errors a user can cause."""

EXIT_USER_ERROR = 2
"""Exit code of a verb that ends with a `UserError`."""


class UserError(Exception):
    """A mistake that the user can correct.

    The message is one line that names the argument, file or row and says what to do.
    """


class WriteFailed(UserError):
    """A write failed (disk full, quota). Pending asynchronous writes cannot finish either."""
