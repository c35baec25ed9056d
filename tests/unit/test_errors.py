"""The error tree: its picture, its messages, its exit codes."""

import inspect
import re

import pytest

from sidestage import errors
from sidestage.errors import DefinitionError, GateClosed, GraphError, RunFailed, SidestageError, StaleWorld

CLASSES = [value for value in vars(errors).values() if inspect.isclass(value)]
EXIT_CODES = {
    "SidestageError": 1,
    "ConfigurationError": 2,
    "DefinitionError": 2,
    "NotFound": 2,
    "GateClosed": 3,
    "TaskError": 4,
    "RunFailed": 4,
    "StreamFailed": 4,
    "MemoryRefused": 4,
    "DataError": 5,
    "StoreError": 6,
}


def drawn() -> dict[str, str]:
    """Read the tree in the module's docstring: each error and its parent."""
    parents: dict[str, str] = {}
    above = {0: "SidestageError"}
    for line in inspect.cleandoc(errors.__doc__ or "").splitlines():
        found = re.match(r"([│ ]*)[├└]── (\w+)", line)
        if found:
            depth = len(found[1]) // 4 + 1
            above[depth] = found[2]
            parents[found[2]] = above[depth - 1]
    return parents


def test_the_picture_is_the_tree():
    actual = {each.__name__: each.__base__.__name__ for each in CLASSES if each is not SidestageError}
    assert drawn() == actual


@pytest.mark.parametrize("error", CLASSES)
def test_each_says_what_happened_and_what_to_do(error):
    raised = error("orders.py:3: no such thing.", hint="Make one.")
    assert isinstance(raised, SidestageError)
    assert str(raised) == "orders.py:3: no such thing. Make one."
    assert (raised.message, raised.hint) == ("orders.py:3: no such thing.", "Make one.")
    assert str(error("Alone.")) == "Alone."
    assert error.__doc__


@pytest.mark.parametrize("error", CLASSES)
def test_exit_codes_are_inherited_within_a_branch(error):
    wanted = next(EXIT_CODES[each.__name__] for each in error.__mro__ if each.__name__ in EXIT_CODES)
    assert error("x").exit_code == wanted


def test_only_a_stale_world_is_worth_another_try():
    assert [each for each in CLASSES if each.transient] == [StaleWorld]


def test_branches_can_be_caught_as_a_whole():
    assert issubclass(GraphError, DefinitionError)
    assert not issubclass(GateClosed, DefinitionError)
    assert not issubclass(RunFailed, errors.TaskError)
