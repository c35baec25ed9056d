"""Values from end to end: made, read by others, staged, compared, promoted, taken back, queried, cleaned up."""

import pytest
from chain import records, the_steps

CODE = """
import os
import pyarrow as pa
from sidestage import Daily, Dataset, Partition, Pipeline, Retry, Value, all_of

days = Daily(start="2026-01-01", end="2026-01-03")
rows = Dataset("shop/rows", days)
count = Value("shop/count", days)
report = Dataset("shop/report", days)
summary = Value("shop/summary")
pipeline = Pipeline("small", retry=Retry(times=0))

def note(step):
    with open("{LEDGER}", "a") as file:
        file.write(step + "\\n")

@pipeline.task(writes=rows)
def make(day: Partition) -> pa.Table:
    note(f"make@{day.key}")
    return pa.table({"n": list(range(day.start.day))})

@pipeline.task(reads=rows, writes=count)
def counted(day: Partition, table: pa.Table) -> dict[str, int | str]:
    note(f"counted@{day.key}")
    factor = 10 if os.path.exists("{LEDGER}.ten") else 1
    return {"rows": table.num_rows * factor, "said": "it's \\"ü\\" and 'more'"}

@pipeline.task(reads=[rows, count], writes=report)
def reported(day: Partition, table: pa.Table, counts: dict[str, int | str]) -> pa.Table:
    note(f"reported@{day.key}")
    assert counts["said"] == "it's \\"ü\\" and 'more'"
    return pa.table({"rows": [counts["rows"]]})

@pipeline.task(reads=all_of(count), writes=summary)
def summed(all_days: Partition, counts: dict[str, dict[str, int | str]]) -> int:
    note("summed")
    assert sorted(counts) == ["2026-01-01", "2026-01-02", "2026-01-03"]
    return sum(each["rows"] for each in counts.values())
"""
COUNTED = 'return {"rows": table.num_rows * factor,'


@pytest.fixture
def project(new_project):
    made = new_project(CODE, settings='[run]\nworkers = 2\n[stage]\nsandbox = "none"\n')
    made("run")
    return made


def shown(project, query):
    return project("sql", query, "--json").json


def test_values_are_handed_on_as_one_or_as_a_mapping_and_queried_as_json(project):
    assert len(project.done()) == 10
    assert shown(project, "select * from production.summary") == [{"value": "6", "_partition": "all"}]
    found = shown(
        project,
        "select _partition p, value->>'$.rows' as rows, value->>'$.said' said from production.count order by p",
    )
    assert [(row["p"], row["rows"]) for row in found] == [
        ("2026-01-01", "1"),
        ("2026-01-02", "2"),
        ("2026-01-03", "3"),
    ]
    assert {row["said"] for row in found} == {"it's \"ü\" and 'more'"}
    assert shown(project, "select sum(rows) s from production.report") == [{"s": 6}]
    listed = {each["dataset"]: each for each in project("datasets", "--json").json}
    assert (listed["shop/count"]["partitions"], listed["shop/count"]["rows"]) == (3, 3)
    assert listed["shop/summary"]["bytes"] == 1
    lake = project.root / ".sidestage" / "lake" / "shop"
    assert sorted(folder.name for folder in lake.iterdir()) == ["report", "rows"]
    assert project("status", "--json").json["runs"][0]["steps"] == {"done": 10}
    project.ledger.unlink()
    project("run")
    assert project.done() == [], "all is as it should be"


def test_a_value_that_is_made_anew_and_is_equal_stops_there(project):
    project.ledger.unlink()
    project("run", "--task", "counted", "--recompute", "--reason", "again")
    assert len(project.done()) == 3
    project.ledger.unlink()
    project("run")
    assert project.done() == []


def test_a_candidate_s_values_are_compared_promoted_and_taken_back(project):
    before = project.digests()
    project.edit(COUNTED, 'return {"rows": table.num_rows + (day.key == "2026-01-03"),')
    project.ledger.unlink()
    project("stage", "--code", ".", "--name", "other")
    assert sorted(project.done()) == [
        "counted@2026-01-01",
        "counted@2026-01-02",
        "counted@2026-01-03",
        "reported@2026-01-03",
        "summed",
    ]
    assert shown(project, "select value from other.summary") == [{"value": "7"}]
    assert shown(project, "select value from production.summary") == [{"value": "6"}]
    compared = project("compare", "other", "--json").json["comparison"]
    datasets = {each["dataset"]: each for each in compared["datasets"]}
    assert compared["verdict"] == "different"
    assert datasets["shop/rows"]["verdict"] == "identical"
    count = datasets["shop/count"]
    assert (count["changed"], count["missing"], count["extra"], count["matched"]) == (1, 0, 0, 3)
    assert [part["how"] for part in count["partitions"]] == ["equal digest", "equal digest", "compared"]
    (sample,) = datasets["shop/summary"]["samples"]
    assert (sample["before"], sample["after"]) == ({"value": "6"}, {"value": "7"})
    text = project("compare", "other").out
    assert "shop/summary" in text
    told = shown(project, "select dataset, partition, base, candidate from other.discrepancies order by 1")
    assert told[-1] == {"dataset": "shop/summary", "partition": "all", "base": "6", "candidate": "7"}
    project("promote", "other")
    assert shown(project, "select value from production.summary") == [{"value": "7"}]
    project("rollback")
    assert project.digests() == before
    assert shown(project, "select value from production.summary") == [{"value": "6"}]


def test_equal_values_need_no_look(project):
    project.edit(COUNTED, 'return {"rows": int(table.num_rows),')
    project("stage", "--code", ".", "--name", "other")
    compared = project("compare", "other", "--json").json["comparison"]
    assert (compared["verdict"], compared["bytes_read"]) == ("identical", 0)


def test_old_values_are_cleaned_up_without_files(project):
    project.ledger.with_name(project.ledger.name + ".ten").touch()
    project("run", "--recompute", "--reason", "ten times as many", "--task", "counted")
    project("run")
    assert shown(project, "select value from production.summary") == [{"value": "60"}]
    kept = project("clean", "--yes", "--grace", "0", "--json").json
    assert (kept["orphans"], kept["versions"]) == ([], [])
    gone = project("clean", "--yes", "--grace", "0", "--keep-days", "0", "--json").json
    assert gone["orphans"] == []
    assert len(gone["versions"]) == 7, "three counts, three reports, one summary"
    assert shown(project, "select value from production.summary") == [{"value": "60"}]
    assert project("clean", "--yes", "--grace", "0", "--keep-days", "0", "--json").json["versions"] == []
    project.ledger.unlink()
    project("run")
    assert project.done() == []


def test_a_dataset_that_becomes_a_value_is_judged_and_shown_as_both(project):
    project.edit('report = Dataset("shop/report", days)', 'report = Value("shop/report", days)')
    project.edit('return pa.table({"rows": [counts["rows"]]})', 'return counts["rows"]')
    project.edit("counts: dict[str, int | str]) -> pa.Table", "counts: dict[str, int | str]) -> object")
    project("stage", "--code", ".", "--name", "other", "--partitions", "2026-01-02")
    found = shown(project, "select _partition p, rows, value from other.report order by p")
    assert found == [
        {"p": "2026-01-01", "rows": 1, "value": None},
        {"p": "2026-01-02", "rows": None, "value": "2"},
        {"p": "2026-01-03", "rows": 3, "value": None},
    ]
    compared = project("compare", "other", "--json", expect=3).json["comparison"]
    report = next(each for each in compared["datasets"] if each["dataset"] == "shop/report")
    assert report["verdict"] == "broken"


BAD = {
    "large": ("'x' * 65_535", "The value is 65,537 bytes of JSON; a value may have 65,536."),
    "set": ("{object()}", "which is no value"),
    "object": ("object()", "which is no value"),
    "table": ("pa.table({'n': [1]})", "which is no value"),
    "lazily": ("(n for n in range(3))", "which is no value"),
    "nan": ("{'a': [1.5, float('nan')]}", "which is no value"),
    "infinite": ("float('-inf')", "which is no value"),
    "cyclic": ("cycle()", "which is no value"),
    "half": ("'caf\\udce9'", "which is no value"),
    "keys": ("{(1, 2): 3}", "which is no value"),
}


def test_what_is_no_value_or_too_large_fails_clearly_and_alone(new_project):
    cases = "".join(
        f"    if part.key == {name!r}:\n        return {code}\n" for name, (code, _) in BAD.items()
    )
    project = new_project(
        f"""
import pyarrow as pa
from sidestage import Partition, Pipeline, Retry, Static, Value

parts = Static({["fits", *BAD]!r})
value, other = Value("value", parts), Value("other", parts)
pipeline = Pipeline("small", retry=Retry(times=0))

def cycle():
    made = []
    made.append(made)
    return made

@pipeline.task(writes=value)
def make(part: Partition) -> object:
{cases}    return "x" * 65_534

@pipeline.task(reads=value, writes=other)
def follow(part: Partition, text: int) -> int:
    return text
"""
    )
    failed = project("run", expect=4)
    assert "Traceback" not in failed.err
    steps = the_steps(project, 1)
    for name, (_, said) in BAD.items():
        assert steps[f"make@{name}"].failure_class == "schema", steps[f"make@{name}"]
        assert said in steps[f"make@{name}"].message
        assert steps[f"follow@{name}"].state == "waiting"
    assert steps["make@fits"].state == "done"
    assert steps["follow@fits"].failure_class == "bug"
    assert "The value of 'text' does not fit its annotation" in steps["follow@fits"].message
    (version,) = records(project, lambda store: store.all_versions())
    assert version.stored.bytes == 65_536
