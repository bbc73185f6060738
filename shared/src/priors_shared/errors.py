"""The error that a user can mend."""


class UserError(ValueError):
    """A user's input is wrong, and the message says what is wrong and how to mend it.

    The message is one line that names the file or argument. Command-line programs print it on
    stderr and exit with code 2, without a traceback; library callers catch it as a `ValueError`.
    """
