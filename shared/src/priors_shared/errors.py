"""The error that a user can mend."""


class UserError(ValueError):
    """A user's input is wrong, and the message says what is wrong and how to mend it.

    The message is one line that names the file or argument. Command-line programs print it on
    stderr and exit with code 2, without a traceback; library callers catch it as a `ValueError`.
    """


def first_line(error: Exception) -> str:
    """Return what another library's error says, in one line; its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
