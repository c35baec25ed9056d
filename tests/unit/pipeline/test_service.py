"""Services as they are declared, and what of them leaves the process that loaded the code."""

from pathlib import Path

import pytest
from tests.unit.pipeline.loaded import manifest_of

from sidestage.data.dataset import Value
from sidestage.data.keyed import Static
from sidestage.errors import DefinitionError, NameRefused
from sidestage.pipeline.pipeline import Pipeline
from sidestage.pipeline.service import ServiceContext, ServiceTerms
from sidestage.policy.restart import Restart

CODE = """
from sidestage.pipeline.pipeline import Pipeline
from sidestage.pipeline.terms import Terms
from sidestage.policy.restart import Restart

p = Pipeline("p", terms=Terms(queue="streams"))
HOW_MANY = 1


@p.service(restart=Restart(times=2), fail="fast", grace=3, port=9100)
def totals():
    return HOW_MANY


@p.service("other")
def named(service):
    return service
"""


def test_a_service_is_called_with_its_context_if_it_takes_one() -> None:
    pipeline = Pipeline("p")
    context = ServiceContext("p.one", Path("/state"))

    @pipeline.service()
    def none() -> str:
        return "flow"

    @pipeline.service("one", fail="fast")
    def given(service: ServiceContext, _more: int = 0) -> ServiceContext:
        return service

    assert none() == "flow", "the function stays as it is"
    assert pipeline.services["none"].flow(context) == "flow"
    assert pipeline.services["one"].flow(context) == context
    assert pipeline.services["one"].terms == ServiceTerms(fail="fast")


def test_what_makes_no_sense_is_refused() -> None:
    pipeline = Pipeline("p")
    with pytest.raises(DefinitionError, match="more than one parameter"):
        pipeline.service("two")(lambda one, two: None)
    for wrong in ({"fail": "hard"}, {"grace": -1}, {"port": 70_000}):
        with pytest.raises(DefinitionError, match="cannot be run with"):
            pipeline.service(**wrong)  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="not a plain function"):
        pipeline.service("partial")(print)
    with pytest.raises(NameRefused):
        pipeline.service("no/name")(lambda: None)


def test_names_of_services_and_tasks_differ() -> None:
    pipeline = Pipeline("p")
    pipeline.task(writes=Value("v", Static(["a"])), name="taken")(lambda part: 1)
    with pytest.raises(DefinitionError, match="has a task 'taken' already"):
        pipeline.service("taken")(lambda: None)
    pipeline.service("kept")(lambda: None)
    with pytest.raises(DefinitionError, match="has a service 'kept' already"):
        pipeline.task(writes=Value("w", Static(["a"])), name="kept")(lambda part: 1)


def test_the_manifest_names_services_and_their_code(tmp_path: Path) -> None:
    first = manifest_of(tmp_path / "first", {"flow.py": CODE})
    totals, other = first.pipelines[0].services
    assert (totals.id, other.id) == ("p.totals", "p.other")
    assert totals.terms == ServiceTerms(Restart(times=2), "fast", 3, 9100)
    assert totals.queue == "streams"
    assert totals.location == "src/flow.py:10"
    changed = manifest_of(tmp_path / "changed", {"flow.py": CODE.replace("HOW_MANY = 1", "HOW_MANY = 2")})
    assert changed.pipelines[0].services[0].fingerprint != totals.fingerprint
    assert changed.pipelines[0].services[1].fingerprint == other.fingerprint
