"""Where commands print for people."""

from rich.console import Console

_WIDTH_OF_FILES = 160


def console(*, stderr: bool = False) -> Console:
    """Return a console; what goes to a file or a pipe is not cut to the width of a terminal."""
    found = Console(stderr=stderr, highlight=False)
    return found if found.is_terminal else Console(stderr=stderr, highlight=False, width=_WIDTH_OF_FILES)
