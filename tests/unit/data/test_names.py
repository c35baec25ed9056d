"""Names that are allowed, names that are refused, and partition keys as file names."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidestage.data.names import (
    check_dataset_name,
    check_environment_name,
    check_pipeline_name,
    check_task_name,
    clash,
    environment_name_from,
    file_key,
)
from sidestage.errors import NameRefused

BAD_EVERYWHERE = [
    "",
    "../x",
    "/etc/passwd",
    "x; DROP TABLE versions",
    "naïve",
    "\N{FACE WITH TEARS OF JOY}",
    "a\0b",
    "x" * 10_240,
    "a b",
    "a\n",
    ".",
    "-x",
    None,
    7,
]


@pytest.mark.parametrize("name", ["flights", "flights/raw", "9-lives/A_b", "a/" * 7 + "h", "x" * 200])
def test_dataset_names_that_are_allowed(name):
    assert check_dataset_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *BAD_EVERYWHERE,
        "a/",
        "/a",
        "a//b",
        "a/../b",
        "a/./b",
        "a/" * 8 + "i",
        "x" * 201,
        "con",
        "a/NUL",
        "lpt1/a",
    ],
)
def test_dataset_names_that_are_refused(name):
    with pytest.raises(NameRefused, match="dataset name") as caught:
        check_dataset_name(name)
    assert len(str(caught.value)) < 500
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()
    assert "Allowed: " in caught.value.hint


@pytest.mark.parametrize("check", [check_task_name, check_pipeline_name, check_environment_name])
@pytest.mark.parametrize("name", [*BAD_EVERYWHERE, "a/b"])
def test_other_names_that_are_refused(check, name):
    with pytest.raises(NameRefused):
        check(name)


def test_what_each_kind_of_name_allows():
    assert check_task_name("_by_Carrier2") == "_by_Carrier2"
    assert check_pipeline_name("nightly-Flights") == "nightly-Flights"
    assert check_environment_name("fix-tz_2") == "fix-tz_2"
    for check, name in ((check_task_name, "a-b"), (check_task_name, "2a"), (check_environment_name, "Fix")):
        with pytest.raises(NameRefused):
            check(name)


@pytest.mark.parametrize(
    ("ref", "name"),
    [
        ("fix-tz", "fix-tz"),
        ("feature/Fix-TZ", "feature-fix-tz"),
        ("a..b  c", "a-b-c"),
        ("production", "production-candidate"),
        ("Production/", "production-candidate"),
    ],
)
def test_environment_names_of_git_references(ref, name):
    assert environment_name_from(ref) == name


@given(st.text(max_size=200))
@example("\ud800")
@example("x" * 64)
@example("---")
def test_every_reference_gives_an_allowed_environment_name(ref):
    assert check_environment_name(environment_name_from(ref)) != "production"


def test_long_references_stay_different():
    assert environment_name_from("x" * 70 + "1") != environment_name_from("x" * 70 + "2")


def test_clash_finds_names_that_differ_only_in_case():
    assert clash(["a", "B", "c", "b", "A"]) == ("B", "b")
    assert clash(["a", "a"]) == ("a", "a")
    assert clash(["a", "b"]) is None


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("2013-01-01", "2013-01-01"),
        ("2013-01-01T05", "2013-01-01%5405"),
        ("eu|de", "eu%7cde"),
        ("", "%empty"),
        (".", "%2e"),
        ("..", "%2e%2e"),
        ("a~b", "a%7eb"),
        ("\0", "%00"),
    ],
)
def test_file_keys(key, expected):
    assert file_key(key) == expected


AWKWARD = st.text(alphabet="aA%|/.~\0é\N{KELVIN SIGN}\ud800", max_size=5) | st.text(max_size=300)


@given(AWKWARD, AWKWARD)
@example("k", "\N{KELVIN SIGN}")
@example("%empty", "")
def test_file_keys_are_safe_and_differ_even_where_case_does_not_count(one, other):
    first, second = file_key(one), file_key(other)
    assert 1 <= len(first.encode()) <= 180
    assert first not in {".", ".."}
    assert set(first) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_=,+%")
    assert (first.casefold() == second.casefold()) == (one == other)


def test_long_keys_that_differ_only_at_the_end_stay_different():
    keys = [file_key("é" * 10_240 + end) for end in ("a", "b")]
    assert keys[0] != keys[1]
    assert {len(key) for key in keys} == {180}
