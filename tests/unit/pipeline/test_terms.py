"""Terms of a task: what may be asked for, and how a task's and its pipeline's are put together."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestage.errors import ConfigurationError, DefinitionError
from sidestage.pipeline.terms import Terms, requirements_of
from sidestage.policy.limits import Limits

steady = settings(derandomize=True, database=None, deadline=None, max_examples=200)
TERMS = st.builds(
    Terms,
    limits=st.none() | st.builds(Limits, memory=st.none() | st.integers(1, 9), time=st.none() | st.just(1.0)),
    runtime=st.sampled_from([None, "process", "fresh", "venv:a.txt"]),
    queue=st.sampled_from([None, "default", "gpu"]),
    pool=st.sampled_from([None, "api"]),
    slots=st.sampled_from([None, 1, 2]),
)


def test_nothing_is_asked_for_unless_it_is():
    terms = Terms()
    assert (terms.limits, terms.runtime, terms.queue, terms.pool, terms.slots) == (None,) * 5


@pytest.mark.parametrize("runtime", ["process", "fresh", "venv:requirements.txt", "venv:envs/gpu.lock"])
def test_runtimes(runtime):
    assert Terms(runtime=runtime).runtime == runtime


@pytest.mark.parametrize("runtime", ["", "docker", "venv", "venv:", "venv: ", "Process", " fresh"])
def test_there_are_no_others(runtime):
    with pytest.raises(DefinitionError, match="There is no runtime"):
        Terms(runtime=runtime)


@pytest.mark.parametrize("name", ["", " ", "-a", "a b", "a/b", "x" * 65, "ü", "a\n"])
@pytest.mark.parametrize("what", ["queue", "pool"])
def test_names_that_cannot_be(what, name):
    with pytest.raises(DefinitionError, match=f"is no name of a {what}") as caught:
        Terms(**{what: name})
    assert len(caught.value.message) < 150


@pytest.mark.parametrize("slots", [0, -1])
def test_a_step_holds_at_least_one_slot(slots):
    with pytest.raises(DefinitionError, match="cannot hold"):
        Terms(pool="api", slots=slots)


@steady
@given(TERMS, TERMS)
def test_a_task_s_own_terms_win_and_the_rest_is_its_pipeline_s(own, over):
    merged = own.merged(over)
    for name in ("runtime", "queue", "pool", "slots"):
        mine = getattr(own, name)
        assert getattr(merged, name) == (getattr(over, name) if mine is None else mine)
    mine, theirs = own.limits or Limits(), over.limits or Limits()
    assert (merged.limits or Limits()) == mine.merged(theirs)


@steady
@given(TERMS, TERMS, TERMS)
def test_it_does_not_matter_in_which_order_three_are_merged(one, two, three):
    assert one.merged(two).merged(three) == one.merged(two.merged(three))


def test_requirements_are_read_relative_to_the_project(tmp_path):
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "gpu.lock").write_text("small==1\n", encoding="utf-8")
    assert requirements_of("venv:envs/gpu.lock", tmp_path) == "small==1\n"


def test_requirements_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(
        ConfigurationError, match=r"missing\.txt of the runtime 'venv:missing\.txt'"
    ) as caught:
        requirements_of("venv:missing.txt", tmp_path)
    assert caught.value.hint == "Paths are relative to the project's root."
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match=r"binary\.txt"):
        requirements_of("venv:binary.txt", tmp_path)
