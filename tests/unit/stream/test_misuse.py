"""What a type checker would have refused is refused at once, and not passed over or found late."""

import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
from tests.unit.stream.places import Kept

from sidestage.errors import ConfigurationError, DefinitionError, TaskError
from sidestage.stream import Collected, Refused, Settings, Skip, Stream, Surge


def stream() -> Any:
    return Stream(["1", "2"])


@pytest.mark.parametrize(
    ("misuse", "said"),
    [
        (
            lambda: stream().map(int, on="proces"),
            r"on='proces' makes no sense\. Give one of 'thread', 'process'",
        ),
        (lambda: stream().map(int, on_error=Skip), r"on_error=.*Skip.* makes no sense\. Give Skip\(\)"),
        (lambda: stream().map(int, on_error="skip"), r"on_error='skip' makes no sense"),
        (lambda: stream().filter(int, retry=3), r"retry=3 makes no sense\. Give Retry"),
        (lambda: stream().map(int, workers="4"), r"cannot have '4' workers"),
        (lambda: stream().map(int, workers=1.5), r"cannot have 1\.5 workers"),
        (lambda: stream().map(3), r"map\(\) was given 3, which cannot be called"),
        (lambda: stream().by_key("user"), r"by_key\(\) was given 'user', which cannot be called"),
        (lambda: stream().by_key(len, into="16"), r"Keys cannot be shared among 16"),
        (lambda: stream().batch(2.0), r"batch\(size=2\.0"),
        (lambda: stream().batch("10"), r"batch\(size=10"),
        (lambda: stream().to(print), r"is no sink\. Give Called\(function\)"),
        (lambda: stream().to([]), r"\[\], which is no sink\. Give a sink"),
        (lambda: stream().to(Collected), r"Give Collected\(\.\.\.\), not the class"),
        (
            lambda: stream().to(Kept()).run(fail="sof"),
            r"fail='sof' makes no sense\. Give one of 'fast', 'soft'",
        ),
        (lambda: stream().to(Kept()).run(checkpoint="here"), r"checkpoint='here' makes no sense"),
        (lambda: stream().to(Kept()).run(dead_letters="here"), r"dead_letters='here' takes no letters"),
        (lambda: stream().to(Kept()).run(settings={}), r"settings=\{\} makes no sense"),
        (lambda: stream().join_table({}, len, max, how="outer"), r"join_table\(how\)='outer' makes no sense"),
        (lambda: stream().map_batches(len, of="pandas"), r"map_batches\(of\)='pandas' makes no sense"),
        (lambda: stream().tables(of="list"), r"tables\(of\)='list' makes no sense"),
        (lambda: Surge(then="stopp"), r"then='stopp'"),  # type: ignore[arg-type]
        (lambda: Settings(chunk=2.5), r"makes no sense"),  # type: ignore[arg-type]
        (lambda: Settings(chunk="10"), r"makes no sense"),  # type: ignore[arg-type]
        (lambda: Settings(buffer="large"), r"makes no sense"),  # type: ignore[arg-type]
    ],
)
def test_what_makes_no_sense_is_said_at_once(misuse: Callable[[], object], said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        misuse()


def test_a_function_that_returns_coroutines_is_no_function_of_items() -> None:
    async def asked(number: str) -> int:
        return int(number)

    def ask(number: str) -> Coroutine[Any, Any, int]:
        return asked(number)

    sink = Kept()
    with pytest.raises(
        TaskError, match=r"'ask' returns coroutines.*Give map\(\) a coroutine function itself"
    ):
        Stream(["1", "2"]).map(ask).to(sink).run()
    assert sink.items == []


class Wrong:
    """A sink that names items which it was not given."""

    name = "wrong"

    def __init__(self, index: int) -> None:
        self.index = index

    def open(self) -> "Wrong":
        return self

    def write(self, items: Sequence[str]) -> None:
        raise Refused({self.index: ValueError("bad")})

    def close(self) -> None: ...


@pytest.mark.parametrize("index", [-1, 2, 99])
def test_a_sink_that_refuses_what_it_was_not_given_ends_the_stream(index: int) -> None:
    letters: list[Any] = []
    with pytest.raises(TypeError, match=f"Wrong.write refused {index} of 2 items"):
        Stream(["1", "2"]).to(Wrong(index)).run(fail="soft", dead_letters=letters.append)
    assert letters == []


def test_reasons_of_refusals_are_exceptions() -> None:
    wrong: Any = {0: "bad"}
    with pytest.raises(TypeError, match="exceptions, by their indexes"):
        Refused(wrong)


def test_a_library_that_is_not_installed_is_named_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    for make in (lambda: stream().tables(of="polars"), lambda: stream().map_batches(len, of="polars")):
        with pytest.raises(ConfigurationError, match=r"need the package polars.*sidestage\[polars\]"):
            make()
