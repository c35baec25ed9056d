import pytest

from sidestage import Dataset
from sidestage.checks import not_null
from sidestage.errors import DefinitionError, NameRefused


@pytest.mark.parametrize("name", ["sidestage/x", "Sidestage", "sidestage"])
def test_names_of_the_platforms_own_datasets_are_refused(name: str) -> None:
    with pytest.raises(NameRefused, match="platform"):
        Dataset(name)


@pytest.mark.parametrize(
    "name",
    ["../x", "", "a;drop table version", "\U0001f600", "a\0b", "x" * 10_000, "/a", "a/", "a//b", "a b"],
)
def test_hostile_names_are_refused_with_a_short_message(name: str) -> None:
    with pytest.raises(NameRefused) as refused:
        Dataset(name)
    assert len(str(refused.value)) < 700
    assert "\0" not in str(refused.value)


def test_what_is_no_check_is_refused_where_it_stands() -> None:
    with pytest.raises(DefinitionError, match=r"'a'.*checks"):
        Dataset("a", checks=["unique(id)"])  # type: ignore[list-item]
    with pytest.raises(DefinitionError, match="key is one string"):
        Dataset("a", key="id")
    assert Dataset("a", checks=[not_null("id")]).key == ()
