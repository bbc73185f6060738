"""Names that come from a user's files."""


def printable(name: str) -> str:
    """A name in one line of a screen or a figure: what is no printable character becomes a box."""
    return "".join(c if c.isprintable() else "\u25a1" for c in name)
