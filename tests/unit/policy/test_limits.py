"""Limits of an attempt: what may be given, what is held, how two are merged."""

from datetime import timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestage.errors import DefinitionError
from sidestage.policy.limits import LOG_BYTES, Limits, seconds_text, size_text

steady = settings(derandomize=True, database=None, deadline=None, max_examples=200)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2 GB", 2_000_000_000),
        ("512 MiB", 512 << 20),
        ("512MiB", 512 << 20),
        (" 1.5 gb ", 1_500_000_000),
        ("0.1 kB", 100),
        ("1 TiB", 1 << 40),
        ("7 B", 7),
    ],
)
def test_sizes_may_be_text(text, size):
    held = Limits(memory=text, temporary=text, log=text)
    assert (held.memory, held.temporary, held.log) == (size, size, size)
    assert held == Limits(memory=size, temporary=size, log=size)


def test_times_may_be_timedeltas():
    assert Limits(time=timedelta(minutes=5), cpu=timedelta(milliseconds=500)) == Limits(time=300.0, cpu=0.5)
    assert Limits(time=3).time == 3.0


@pytest.mark.parametrize(
    "nonsense",
    [
        {"memory": 0},
        {"memory": -1},
        {"memory": True},
        {"memory": 1.5},
        {"memory": "2"},
        {"memory": "2 G"},
        {"memory": "two GB"},
        {"memory": "-2 GB"},
        {"memory": "0 GB"},
        {"memory": "1e3 GB"},
        {"memory": "999999999999999 TiB"},
        {"memory": "\u0662 GB"},
        {"memory": ""},
        {"temporary": -1},
        {"output": 0},
        {"output": "much"},
        {"temporary": "x\n" * 100},
        {"log": None},
        {"log": -1},
        {"cpu": 0},
        {"cpu": float("nan")},
        {"cpu": float("inf")},
        {"cpu": "3"},
        {"cpu": True},
        {"time": -1},
        {"time": timedelta(0)},
        {"time": 1e300},
        {"files": 0},
        {"files": 1.0},
        {"files": "10"},
        {"files": False},
    ],
)
def test_nonsense_is_refused(nonsense):
    with pytest.raises(DefinitionError, match=f"{next(iter(nonsense))}=.* makes no sense") as caught:
        Limits(**nonsense)
    assert caught.value.hint
    assert len(caught.value.message) < 120


def test_nothing_is_limited_unless_said_but_the_log():
    assert Limits() == Limits(
        memory=None, cpu=None, time=None, files=None, temporary=None, output=None, log=LOG_BYTES
    )


amounts = st.one_of(st.none(), st.integers(1, 1 << 50))
durations = st.one_of(st.none(), st.floats(0.001, 1e9))
anything = st.builds(
    Limits,
    memory=amounts,
    cpu=durations,
    time=durations,
    files=amounts,
    temporary=amounts,
    output=amounts,
    log=st.integers(0, 1 << 40),
)


@steady
@given(anything)
def test_travels_as_json(limits):
    assert msgspec.json.decode(msgspec.json.encode(limits), type=Limits) == limits


def test_nonsense_in_json_is_refused():
    with pytest.raises(DefinitionError, match="makes no sense"):
        msgspec.json.decode(b'{"memory": -5}', type=Limits)


@steady
@given(anything, anything)
def test_merging_keeps_what_is_set(own, over):
    merged = own.merged(over)
    for field in ("memory", "cpu", "time", "files", "temporary", "output"):
        expected = getattr(over, field) if getattr(own, field) is None else getattr(own, field)
        assert getattr(merged, field) == expected
    assert merged.log == (over.log if own.log == LOG_BYTES else own.log)
    assert own.merged(Limits()) == own
    assert Limits().merged(own) == own


def test_an_amount_of_zero_is_set():
    assert Limits(temporary=0, log=0).merged(Limits(temporary=5, log=5)) == Limits(temporary=0, log=0)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (2_147_000_000, "2.147 GB"),
        (999_999_999, "1000 MB"),
        (5 * 10**15, "5000 TB"),
    ],
)
def test_sizes_are_said_as_people_do(size, text):
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.25 s"), (61, "61 s"), (125, "2 min 5 s"), (3600, "1 h"), (3905, "1 h 5 min")],
)
def test_durations_are_said_as_people_do(seconds, text):
    assert seconds_text(seconds) == text
