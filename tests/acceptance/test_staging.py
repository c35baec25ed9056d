"""The understudy: production's inputs, its own outputs, and nothing that production could notice."""

import subprocess

import pytest

CODE = """
import os
import pyarrow as pa
from sidestage import Daily, Dataset, Partition, Pipeline
from sidestage.checks import row_count, same_total

def note(step):
    with open("{LEDGER}", "a") as file:
        file.write(step + "\\n")

days = Daily(start="2026-01-01", end="2026-01-03")
raw = Dataset("raw", days)
clean = Dataset("clean", days, key=["n"], checks=[row_count(at_least=1)])
total = Dataset("total", days, compare=[same_total("x", within=0)])
pipeline = Pipeline("small")

@pipeline.task(writes=raw)
def extract(day: Partition) -> pa.Table:
    note(f"extract@{day.key}")
    factor = int(open("{LEDGER}.source").read())
    return pa.table({"n": range(10), "x": [n * factor for n in range(10)]})

@pipeline.task(reads=raw, writes=clean)
def tidy(day: Partition, rows: pa.Table) -> pa.Table:
    note(f"tidy@{day.key}")
    return rows.append_column("seen", [rows["x"]])

@pipeline.task(reads=clean, writes=total)
def add_up(day: Partition, rows: pa.Table) -> pa.Table:
    note(f"add_up@{day.key}")
    return pa.table({"x": [sum(rows["x"].to_pylist())]})
"""
TIDY = 'return rows.append_column("seen", [rows["x"]])'
KEYS = ("2026-01-01", "2026-01-02", "2026-01-03")


@pytest.fixture
def project(new_project):
    """A project whose production has run, and whose source counts by ones."""
    # Its ledger lies where no candidate may write; the wall has tests of its own.
    made = new_project(CODE, settings='[run]\nworkers = 2\n[stage]\nsandbox = "none"\n')
    source(made, 1)
    made("run")
    made.ledger.unlink()
    return made


def source(project, factor):
    project.ledger.with_name(project.ledger.name + ".source").write_text(str(factor))


def state(project):
    """Return everything about production that a candidate must not be able to change."""
    from sidestage.store.sql import open_store

    with open_store(f"sqlite:///{project.root}/.sidestage/catalog.db") as store:
        environment, released = store.environment("production"), store.released("production")
        log = store.pointer_log(environment="production", limit=1000)
        return environment, released, log, store.pointers("production"), store.moves("production")


def runs_of(*tasks):
    return sorted(f"{task}@{key}" for task in tasks for key in KEYS)


def stage(project, name="other", *more, expect=0):
    project.ledger.unlink(missing_ok=True)
    return project("stage", "--code", ".", "--name", name, "--json", *more, expect=expect)


def test_code_that_is_the_same_runs_nothing_and_differs_nowhere(project):
    before = state(project)
    assert stage(project).json["published"] == 0
    assert project.done() == []
    assert project("compare", "other", "--json").json["comparison"]["passed"] is True
    assert state(project) == before


def test_a_comment_changes_nothing(project):
    project.edit('    note(f"tidy@{day.key}")', '    # only a comment\n    note(f"tidy@{day.key}")')
    assert stage(project).json["published"] == 0
    assert project.done() == []


def test_only_what_changed_runs_and_a_changed_output_carries_on(project):
    before = state(project)
    project.edit(TIDY, 'return rows.slice(1).append_column("seen", [rows.slice(1)["x"]])')
    assert stage(project).json["published"] == 6
    assert sorted(project.done()) == runs_of("add_up", "tidy")
    assert state(project) == before
    assert stage(project).json["published"] == 0
    assert project.done() == [], "what is staged is not staged again"


def test_a_changed_step_whose_output_is_equal_costs_nothing_downstream(project):
    project.edit(TIDY, 'return rows.append_column("seen", [rows["x"]]).slice(0)')
    summary = stage(project).json
    assert (summary["published"], summary["reused"]) == (3, 3)
    assert sorted(project.done()) == runs_of("tidy")
    assert project("compare", "other", "--json").json["comparison"]["passed"] is True
    project("promote", "other")
    project.ledger.unlink()
    assert project("run", "--json").json is None
    assert project.done() == []


def test_a_candidate_reads_what_production_read_even_if_the_raw_data_is_newer(project):
    source(project, 7)
    project("run", "--task", "extract", "--recompute", "--reason", "newer raw data")
    before = state(project)
    project.edit(TIDY, 'return rows.append_column("seen", [rows["x"]]).slice(0)')
    assert stage(project).json["published"] == 3
    shown = project("sql", "select distinct x from other.total", "--json").json
    assert shown == [{"x": 45}], "the sum of what production's steps read, not of what is there by now"
    compared = project("compare", "other", "--json")
    verdicts = {entry["dataset"]: entry["verdict"] for entry in compared.json["comparison"]["datasets"]}
    assert set(verdicts.values()) == {"identical"}, "no difference may come from newer inputs"
    assert state(project) == before


def test_a_candidates_code_is_never_imported_by_the_command_itself(project):
    trap = project.root.parent / "imported-by"
    project.edit(
        "import os\n", f"import os\nopen({str(trap)!r}, 'a').write(open('/proc/self/cmdline').read() + '|')\n"
    )
    stage(project)
    project("compare", "other")
    project("promote", "other")
    project("rollback")
    importers = trap.read_text().rstrip("|").split("|")
    assert importers
    assert all("sidestage.run.child" in importer for importer in importers)


def test_a_corrected_candidate_withdraws_what_is_as_in_production_again(project):
    project.edit(TIDY, 'return rows.slice(1).append_column("seen", [rows.slice(1)["x"]])')
    stage(project)
    assert len(project.pointers("other")) == 6
    project.edit('return rows.slice(1).append_column("seen", [rows.slice(1)["x"]])', TIDY)
    stage(project)
    assert project.done() == []
    assert project.pointers("other") == {}
    project("compare", "other")
    move = project("promote", "other", "--json").json
    assert move["pointers"] == 0


def test_a_candidate_that_breaks_a_check_cannot_be_promoted(project):
    before = state(project)
    project.edit(TIDY, "return rows.slice(10) if day.key.endswith('02') else rows")
    assert stage(project, expect=4).json["failed"] == 1
    project("compare", "other", expect=None)
    refused = project("promote", "other", "--json", expect=3).json
    assert "staging run" in refused["message"]
    assert state(project) == before
    for path in (project.root / ".sidestage" / "lake").rglob(".*"):
        raise AssertionError(path)


def gates(project, name="other"):
    closed = project("promote", name, "--dry-run", "--json", expect=None).json
    return {gate["name"] for gate in closed if not gate["open"]}


def assert_refused(project, gate, before):
    assert gate in gates(project)
    refused = project("promote", "other", "--json", expect=3).json
    assert gate in refused["message"]
    assert refused["hint"].startswith("Next: ")
    assert state(project) == before


def test_every_gate_refuses(project):
    before = state(project)
    project.edit(TIDY, 'return rows.slice(1).append_column("seen", [rows.slice(1)["x"]])')
    project("stage", "--code", ".", "--name", "other", "--partitions", KEYS[0])
    assert_refused(project, "rehearsed on all of production", before)
    project("stage", "--code", ".", "--name", "other")
    assert_refused(project, "compared", before)
    project("compare", "other")
    assert gates(project) == set()
    project.edit("slice(1).append", "slice(2).append")
    project.edit('slice(1)["x"]', 'slice(2)["x"]')
    stage(project)
    assert_refused(project, "compared", before)  # that comparison was of other versions
    project("compare", "other", expect=3)  # the total differs, and must not
    assert gates(project) == {"comparison passed"}
    assert_refused(project, "comparison passed", before)
    project.edit("return rows.slice(2)", "raise ValueError\n    return rows.slice(2)")
    stage(project, expect=4)
    assert_refused(project, "checks passed", before)


def test_production_that_moved_since_the_comparison_closes_the_gate(project):
    project.edit(TIDY, 'return rows.append_column("seen", [rows["x"]]).slice(0, 10)')
    stage(project)
    project("compare", "other")
    assert gates(project) == set()
    old = (project.root / "src/small/pipeline.py").read_text()
    (project.root / "src/small/pipeline.py").write_text(old.replace(".slice(0, 10)", ""))
    source(project, 3)
    project("run", "--recompute", "--reason", "the source was corrected")
    before = state(project)
    project("promote", "other", expect=3)
    assert state(project) == before


def test_a_commit_is_staged_although_the_working_tree_is_another(project):
    def git(*words):
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        subprocess.run(["git", *identity, *words], cwd=project.root, check=True, capture_output=True)

    git("init", "-q", "-b", "main")
    git("add", "-A")
    git("commit", "-qm", "one")
    git("checkout", "-qb", "Fix/One")
    project.edit(TIDY, 'return rows.append_column("seen", [rows["x"]]).slice(0)')
    git("commit", "-qam", "two")
    git("checkout", "-q", "main")
    project.edit(TIDY, "raise ValueError('the working tree must not be used')")
    project.ledger.unlink(missing_ok=True)
    project("stage", "--code", "git:Fix/One")
    assert sorted(project.done()) == runs_of("tidy")
    project("compare", "fix-one")
    assert project("promote", "fix-one", "--json").json["pointers"] == 3
    refused = project("run", expect=3)
    assert "sidestage stage" in refused.err
    git("checkout", "-q", "--force", "main")
    git("merge", "-q", "Fix/One")
    project.ledger.unlink(missing_ok=True)
    assert project("run", "--json").json is None, "the merged commit is the code that was promoted"
