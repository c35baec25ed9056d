"""Objects that a command line names as ``MODULE:NAME``."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from sidestage.errors import ConfigurationError, SidestageError


@contextmanager
def named(name: str, what: str, example: str, command: str) -> Iterator[Any]:
    """Give what ``MODULE:NAME`` names, in the current folder or installed.

    Raises ConfigurationError, also for what goes wrong in the block; ``what``, ``example`` and the ``stream``
    command are for its text.
    """
    module_name, colon, attribute = name.partition(":")
    if not (colon and module_name and attribute):
        raise ConfigurationError(
            f"{name!r} does not name {what}.", hint=f"Write MODULE:NAME, such as {example}."
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
        yield found
    except SidestageError:
        raise
    except Exception as error:
        is_missing = isinstance(error, ImportError | AttributeError)
        advice = f"Is the module in this folder, or installed? Try: python -c 'import {module_name}'."
        raise ConfigurationError(
            f"{name} cannot be had: {type(error).__name__}: {error}",
            hint=f"{advice if is_missing else 'Its own code raised that.'} "
            f"The whole trace: sidestage --trace stream {command} ...",
        ) from error
