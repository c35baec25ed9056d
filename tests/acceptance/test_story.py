"""The command, from a new project to a rollback: results, JSON, exit statuses, errors in one line."""

import json
import subprocess
from datetime import UTC, datetime

import pytest

from conftest import SmallProject

PIPELINE = "src/shop/pipeline.py"


def change(shop: SmallProject, old: str, new: str) -> None:
    file = shop.root / PIPELINE
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


def assert_one_clear_line(error: str) -> None:
    lines = error.strip().splitlines()
    assert lines[0].startswith("Error: ")
    assert len(lines) <= 2, error
    assert all(line.startswith("       ") for line in lines[1:]), error
    assert "Traceback" not in error


def test_init_makes_a_project_that_runs_and_whose_tests_pass(sidestage, tmp_path):
    made = sidestage("init", "bakery", "--json", at=tmp_path)
    assert made.json == {"name": "bakery", "folder": "bakery"}
    root = tmp_path / "bakery"
    first = sidestage("run", "--json", at=root).json
    assert (first["state"], first["published"], first["failed"]) == ("done", 14, 0)
    arguments = [sidestage.arguments()[0], "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    subprocess.run(arguments, cwd=root, env=dict(sidestage.environment), check=True, capture_output=True)


def test_a_folder_with_something_in_it_is_not_overwritten(sidestage, tmp_path):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "precious").write_text("mine")
    refused = sidestage("init", "shop", at=tmp_path, expect=2)
    assert_one_clear_line(refused.err)
    assert (tmp_path / "shop" / "precious").read_text() == "mine"


def test_the_whole_story_in_json(shop):
    before = shop.digests()
    nothing = shop("run", "--json")
    assert nothing.json is None
    runs = shop("status", "--json").json["runs"]
    assert len(runs) == 1, "a run with nothing to do must not be recorded"

    plan = shop("plan", "--json").json
    assert (plan["steps"], plan["current"], plan["unreleased"]) == ([], 14, [])

    change(shop, ".strip().lower()", ".strip().upper()")
    assert {entry["task"] for entry in shop("plan", "--json").json["unreleased"]} == {"shop.extract"}
    refused = shop("run", "--json", expect=3)
    assert refused.json["error"] == "GateClosed"
    assert "sidestage stage" in refused.json["hint"]

    staged = shop("stage", "--code", ".", "--name", "caps", "--json").json
    assert (staged["state"], staged["published"]) == ("done", 14)
    assert shop.digests() == before, "staging must not touch production"

    early = shop("promote", "caps", "--json", expect=3)
    assert "never compared" in early.json["message"]

    compared = shop("compare", "caps", "--json").json
    assert compared["comparison"]["passed"] is True
    gates = shop("promote", "caps", "--dry-run", "--json").json
    assert [gate["open"] for gate in gates] == [True] * 4
    assert shop.digests() == before

    promoted = shop("promote", "caps", "--reason", "capitals", "--by", "ann", "--json").json
    assert (promoted["kind"], promoted["pointers"], promoted["by"]) == ("promote", 14, "ann")
    assert shop.digests() != before
    assert shop.digests().items() <= shop.digests("caps").items()
    assert shop("run", "--json").json is None, "the promoted code runs, and there is nothing to do"

    change(shop, ".strip().upper()", ".strip().lower()")
    refused = shop("run", expect=3)
    assert_one_clear_line(refused.err)
    assert "sidestage stage" in refused.err

    back = shop("rollback", "--reason", "was wrong", "--json").json
    assert (back["kind"], back["undoes"], back["pointers"]) == ("rollback", promoted["id"], 14)
    assert shop.digests() == before
    assert shop("run", "--json").json is None, "after the rollback the old code runs again"
    assert shop.digests() == before

    moves = shop("history", "--moves", "--json").json
    assert [move["kind"] for move in moves] == ["rollback", "promote", "promote"]
    assert moves[1]["undone_by"] == moves[0]["id"]
    again = shop("rollback", "--json", expect=2)
    assert again.json["error"] == "NotFound"


def test_looking_at_data(shop):
    rows = shop(
        "sql", "select count(*) n, count(distinct _partition) p from production.orders", "--json"
    ).json
    assert rows == [{"n": 109, "p": 7}]
    datasets = shop("datasets", "--json").json
    assert [(entry["dataset"], entry["partitions"]) for entry in datasets] == [("orders", 7), ("revenue", 7)]
    entries = shop("history", "revenue", "2026-01-03", "--json").json
    assert [(entry["kind"], entry["environment"]) for entry in entries] == [("publish", "production")]
    for words in (
        ("run",),
        ("plan", "--steps"),
        ("status",),
        ("history",),
        ("history", "--moves"),
        ("datasets",),
        ("sql", "from production.revenue"),
        ("clean",),
    ):
        shown = shop(*words)
        assert shown.out.strip()
        assert shown.err == ""


def test_as_of_shows_what_was_shown_then(shop):
    then = datetime.now(UTC).isoformat()
    before = shop("sql", "select product, revenue from production.revenue order by all", "--json").json
    change(shop, 'amount=float(row["amount"])', 'amount=10 + float(row["amount"])')
    shop("stage", "--code", ".", "--name", "dearer")
    shop("compare", "dearer", expect=3)  # same_total(revenue, within=0.05) is broken
    look = ("select product, revenue from production.revenue order by all", "--json")
    assert shop("sql", *look, "--as-of", then).json == before
    assert shop("datasets", "--as-of", "2020-01-01", "--json").json == []
    assert shop("datasets", "--as-of", then, "--json").json == shop("datasets", "--json").json
    assert shop("sql", *look, "--as-of", "yesterday", expect=2).out == ""


def test_clean_says_what_it_would_delete_and_deletes_it(shop):
    orphan = shop.root / ".sidestage" / "lake" / "orders" / ("2026-01-01~" + "0" * 24 + ".parquet")
    orphan.write_bytes(b"left by a killed worker")
    unknown = orphan.with_name("notes.txt")
    unknown.write_text("not ours")
    would = shop("clean", "--grace", "0", "--json").json
    assert would["orphans"] == [f"orders/{orphan.name}"]
    assert would["bytes"] == len(b"left by a killed worker")
    assert orphan.exists()
    assert shop("clean", "--yes", "--json").json["orphans"] == [], "it is younger than the grace period"
    shop("clean", "--yes", "--grace", "0", "--keep-days", "0")
    assert not orphan.exists()
    assert unknown.exists()
    assert shop("sql", "select count(*) n from production.orders", "--json").json == [{"n": 109}]


def test_clean_deletes_versions_that_nobody_can_go_back_to(shop):
    lake = shop.root / ".sidestage" / "lake"
    before = shop.digests()
    shop("run", "--recompute", "--reason", "test")
    assert len(list(lake.rglob("*.parquet"))) == 28
    assert shop("clean", "--yes", "--json").json["versions"] == []
    gone = shop("clean", "--yes", "--keep-days", "0", "--json").json
    assert len(gone["versions"]) == 14
    assert len(list(lake.rglob("*.parquet"))) == 14
    assert shop.digests() == before
    assert shop("clean", "--yes", "--keep-days", "0", "--grace", "0", "--json").json["versions"] == []


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("run", "nothing"), 2),
        (("run", "--partitions", "2026-13-01"), 2),
        (("run", "--partitions", "1999-01-01"), 2),
        (("run", "--task", "nothing"), 2),
        (("stage", "--code", "svn:1", "--name", "x"), 2),
        (("stage", "--code", "git:nothing"), 2),
        (("stage", "--code", ".", "--name", "production"), 2),
        (("stage", "--code", ".", "--name", "../x"), 2),
        (("compare", "nothing"), 2),
        (("promote", "nothing"), 2),
        (("promote", "production"), 2),
        (("rollback",), 2),
        (("datasets", "-e", "nothing"), 2),
        (("run", "--resume"), 2),
    ],
)
def test_what_cannot_be_done_is_one_clear_line_and_a_hint(shop, words, status):
    before = shop.pointers()
    refused = shop(*words, expect=status)
    assert_one_clear_line(refused.err)
    assert refused.out == ""
    asked = shop(*words, "--json", expect=status)
    assert set(asked.json) == {"error", "message", "hint"}
    assert shop.pointers() == before


def test_a_wrong_query_is_shown_with_the_place_that_is_wrong(shop):
    refused = shop("sql", "select nothing from production.orders", expect=1)
    assert refused.err.startswith("Error: The query failed: ")
    assert "^" in refused.err
    assert "Traceback" not in refused.err


@pytest.mark.parametrize(
    "words", [("run", "--workers", "0"), ("nothing",), ("run", "--recompute"), ("stage",)]
)
def test_wrong_use_is_exit_status_2(shop, words):
    refused = shop(*words, expect=2)
    assert refused.out == ""
    assert "Error: " in refused.err


def test_no_option_skips_a_gate(shop):
    for option in ("--force", "--yes", "--skip-gates", "--no-compare"):
        shop("promote", "anything", option, expect=2)


def test_an_error_shows_its_trace_only_when_asked(shop):
    assert "Traceback" not in shop("run", "nothing", expect=2).err
    assert "Traceback" in shop("--trace", "run", "nothing", expect=2).err


def test_code_that_cannot_be_imported_is_named_with_file_and_line(shop):
    file = shop.root / PIPELINE
    file.write_text(file.read_text() + "\nraise RuntimeError('half-written')\n")
    line = len(file.read_text().splitlines())
    refused = shop("run", expect=2)
    assert_one_clear_line(refused.err)
    assert f"{PIPELINE}:{line}" in refused.err
    assert "half-written" in refused.err


def test_outside_a_project_it_says_how_to_make_one(sidestage, tmp_path):
    refused = sidestage("run", at=tmp_path, expect=2)
    assert_one_clear_line(refused.err)
    assert "sidestage init" in refused.err


def test_a_damaged_catalog_is_reported_and_left_alone(shop):
    catalog = shop.root / ".sidestage" / "catalog.db"
    for neighbour in catalog.parent.glob("catalog.db-*"):
        neighbour.unlink()
    catalog.write_bytes(b"this is not a database, " * 100)
    refused = shop("status", expect=6)
    assert_one_clear_line(refused.err)
    assert catalog.read_bytes().startswith(b"this is not a database")


def test_what_stdout_holds_is_json_also_when_steps_fail(shop):
    shop.root.joinpath("data/orders.csv").write_text(
        "order_id,ordered_at,product,quantity,amount\n1,2026-01-01T18:03:00,coffee,4,30.00\n"
    )
    failed = shop("run", "--recompute", "--reason", "test", "--json", expect=4)
    assert failed.json["state"] == "failed"
    assert json.loads(failed.out)["failed"] == 6, "days without orders break row_count(at_least=1)"
    assert shop.digests()["orders", "2026-01-02"], "the previous version stays current"
