"""What is asked of arguments that a type checker would have refused: wrong ones must not be passed over."""

from collections.abc import Collection
from importlib.util import find_spec
from typing import Any

from sidestage.errors import ConfigurationError, DefinitionError
from sidestage.stream.failing import shown

_SHOWN = 60


def is_count(given: object) -> bool:
    """Return whether something is a whole number above zero."""
    return isinstance(given, int) and not isinstance(given, bool) and given >= 1


def require_one_of(what: str, given: object, known: Collection[str]) -> None:
    """Raise DefinitionError if something is not among the words that are known."""
    if given not in known:
        raise DefinitionError(
            f"{what}={shown(given, _SHOWN)} makes no sense.",
            hint=f"Give one of {', '.join(map(repr, known))}.",
        )


def require_a(what: str, given: object, kinds: tuple[type, ...], example: str) -> None:
    """Raise DefinitionError if something is neither None nor of one of these types."""
    if given is not None and not isinstance(given, kinds):
        raise DefinitionError(f"{what}={shown(given, _SHOWN)} makes no sense.", hint=f"Give {example}.")


def require_function(what: str, given: Any) -> None:
    """Raise DefinitionError if something cannot be called."""
    if not callable(given):
        raise DefinitionError(
            f"{what}() was given {shown(given, _SHOWN)}, which cannot be called.",
            hint="Give a function of the item.",
        )


def require_sink(given: Any) -> None:
    """Raise DefinitionError if nothing can be written to it."""
    if callable(getattr(given, "open", None)) and hasattr(given, "name"):
        return
    if isinstance(given, type):
        hint = f"Give {given.__name__}(...), not the class."
    elif callable(given):
        hint = "Give Called(function): the function is called with lists of items."
    else:
        hint = "Give a sink, such as Collected() or Called(function)."
    raise DefinitionError(f"to() was given {shown(given, _SHOWN)}, which is no sink.", hint=hint)


def require_library(name: str) -> None:
    """Raise ConfigurationError if tables of a library cannot be had: nothing is read then."""
    if name == "polars" and find_spec("polars") is None:
        raise ConfigurationError(
            "Tables of polars need the package polars.", hint="pip install 'sidestage[polars]'"
        )
