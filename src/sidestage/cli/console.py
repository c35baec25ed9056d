"""Where commands print for people. What draws on the terminal takes a while to load, and is, when needed."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_WIDTH_OF_FILES = 160


def console(*, stderr: bool = False) -> "Console":
    """Return a console; what goes to a file or a pipe is not cut to the width of a terminal."""
    from rich.console import Console  # noqa: PLC0415

    found = Console(stderr=stderr, highlight=False)
    return found if found.is_terminal else Console(stderr=stderr, highlight=False, width=_WIDTH_OF_FILES)


def escape(text: str) -> str:
    """Return text so that none of it is taken for the console's own markup."""
    from rich.markup import escape as escaped  # noqa: PLC0415

    return escaped(text)
