"""What every store keeps, whatever the database: one suite, one more parameter per implementation."""

import threading
from datetime import datetime

import msgspec
import pytest
from tests.contract.making import NOON, Opener, a_move, at, begin, make, output, publish, step, take

from sidestage.data.check import Finding
from sidestage.data.version import Column
from sidestage.errors import NotFound, StaleWorld, StoreError
from sidestage.store.contract import Store
from sidestage.store.records import (
    CodeChange,
    ComparisonRecord,
    Demand,
    Environment,
    Failure,
    Move,
    Publication,
    Reuse,
    Settled,
)

# Environments


def test_environments_are_created_replaced_and_listed_by_name(store: Store) -> None:
    store.save_environment(Environment("fix", "production", "git:def", "promoted", at(5)))
    assert store.environment("fix") == Environment("fix", "production", "git:def", "promoted", NOON)
    assert store.environment("none") is None
    assert [each.name for each in store.environments()] == ["fix", "production"]


# Publishing


def test_publishing_is_one_step_from_nothing_to_everything(store: Store) -> None:
    run = begin(store, step("s1"), step("t2", "s1"))
    (claim,) = take(store, run)
    made = output(store, claim, "v1")
    finding = Finding("unique(x)", passed=True, blocking=True, message="fine")
    settled = store.settle([Publication(claim, made, (finding,))], at(2))
    assert settled == (Settled("s1", "done"),)
    assert store.pointers("production") == {("a/b", "s1"): "v1"}
    assert store.pointers("fix") == {}
    assert store.versions(["v1", "none"]) == {"v1": made}
    assert store.released("production") == {}
    first, second = store.steps(run)
    assert (first.state, first.version, first.seconds, first.owner) == ("done", "v1", 1.5, None)
    assert (second.state, second.attempt) == ("ready", 0)
    (attempt,) = store.attempts(run, "s1")
    assert (attempt.state, attempt.number, attempt.owner) == ("done", 1, "w1")
    assert (attempt.started_at, attempt.ended_at, attempt.findings) == (at(1), at(2), (finding,))
    (entry,) = store.pointer_log()
    assert (entry.at, entry.version, entry.kind, entry.run, entry.move) == (at(2), "v1", "publish", run, None)
    kinds = [each.kind for each in store.events()]
    assert kinds == ["RunStarted", "StepStarted", "StepPublished"]
    assert [each.kind for each in store.events(after=store.events()[1].id)] == ["StepPublished"]


def test_a_schema_that_differs_from_the_digests_is_kept(store: Store) -> None:
    run = begin(store, step("s1"))
    (claim,) = take(store, run)
    made = output(store, claim, "v1")
    odd = msgspec.structs.replace(made.stored, schema=(Column("other", "date32"),))
    made = msgspec.structs.replace(made, stored=odd, inputs=())
    store.settle([Publication(claim, made)], at(2))
    assert store.versions(["v1"]) == {"v1": made}
    assert list(store.all_versions()) == [made]


def test_publishing_replaces_what_the_plan_saw_and_nothing_else(store: Store) -> None:
    assert make(store, "s1", "v1") == "done"
    assert make(store, "s1", "v2") == "done"
    late = begin(store, step("s1", expects="v1"), step("s2", expects="v1"), step("s3"))
    claims = take(store, late)
    outcomes = [Publication(c, output(store, c, f"w{n}")) for n, c in enumerate(claims)]
    assert [each.result for each in store.settle(outcomes, at(3))] == ["stale", "stale", "done"]
    assert store.pointers("production") == {("a/b", "s1"): "v2", ("a/b", "s3"): "w2"}
    assert set(store.versions(["w0", "w1", "w2"])) == {"w2"}
    stale = store.steps(late)[0]
    assert (stale.state, stale.failure_class) == ("failed", "stale")
    assert "v2" in str(stale.message)
    assert "v1" in str(stale.message)


def test_code_that_was_not_released_cannot_publish(store: Store) -> None:
    make(store, "s1", "v1")
    release(store, "task s", "c1")
    run = begin(store, step("s2"), step("s3"))
    claims = take(store, run)
    assert publish(store, claims[0], "w0", code="other") == "stale"
    assert publish(store, claims[1], "w1", code="c1") == "done"
    assert "other code released" in str(store.steps(run)[0].message)
    assert "other" not in store.released("production").values()


def test_publishing_releases_no_code(store: Store) -> None:
    run = begin(store, step("s1"), step("s2"))
    one, two = take(store, run)
    outcomes = [
        Publication(one, output(store, one, "v1", "c1")),
        Publication(two, output(store, two, "v2", "c2")),
    ]
    assert [each.result for each in store.settle(outcomes, at(2))] == ["done", "done"]
    assert store.released("production") == {}


def test_a_group_of_two_runs_may_not_publish_one_pointer_twice(store: Store) -> None:
    claims = [take(store, begin(store, step("s1")))[0] for _ in range(2)]
    outcomes = [Publication(c, output(store, c, f"v{c.run}")) for c in claims]
    assert [each.result for each in store.settle(outcomes, at(2))] == ["done", "stale"]


def test_only_the_newest_claim_may_publish(store: Store) -> None:
    run = begin(store, step("s1"), step("s2"))
    late, other = take(store, run, owner="late", lease=0.0)
    (newer,) = take(store, run, limit=1, owner="newer")
    assert (newer.step, newer.attempt, newer.fence) == ("s1", 2, late.fence + 1)
    assert publish(store, late, "v1") == "fenced"
    assert publish(store, other, "v2") == "fenced"
    assert store.pointers("production") == {}
    assert store.versions(["v1", "v2"]) == {}
    assert publish(store, newer, "v3") == "done"
    assert [each.state for each in store.attempts(run, "s1")] == ["abandoned", "done"]
    assert [each.state for each in store.attempts(run, "s2")] == ["abandoned"]


def test_forged_claims_are_fenced(store: Store) -> None:
    run = begin(store, step("s1"))
    (claim,) = take(store, run)
    made = output(store, claim, "v1")
    forged = [
        msgspec.structs.replace(claim, owner="thief"),
        msgspec.structs.replace(claim, fence=claim.fence + 1),
        msgspec.structs.replace(claim, step="none"),
        msgspec.structs.replace(claim, run=run + 1),
    ]
    results = store.settle([Publication(each, made) for each in forged], at(2))
    assert {each.result for each in results} == {"fenced"}
    assert publish(store, claim, "v1") == "done"


def test_an_outcome_counts_once(store: Store) -> None:
    run = begin(store, step("s1"))
    (claim,) = take(store, run)
    outcome = Publication(claim, output(store, claim, "v1"))
    results = store.settle([outcome, outcome, Failure(claim, "bug", "no")], at(2))
    assert [each.result for each in results] == ["done", "fenced", "fenced"]
    assert [each.result for each in store.settle([outcome], at(3))] == ["fenced"]
    assert len(store.pointer_log()) == 1


@pytest.mark.parametrize("wrong", ["dataset", "partition", "environment", "run", "step"])
def test_a_version_of_something_else_is_a_bug(store: Store, wrong: str) -> None:
    run = begin(store, step("s1"), step("s2"))
    one, two = take(store, run)
    made = msgspec.structs.replace(output(store, one, "v1"), **{wrong: "elsewhere"})
    results = store.settle([Publication(one, made), Publication(two, output(store, two, "v2"))], at(2))
    assert [each.result for each in results] == ["failed", "done"]
    assert store.steps(run)[0].failure_class == "bug"
    assert store.pointers("production") == {("a/b", "s2"): "v2"}


def test_a_version_id_is_never_given_twice(store: Store) -> None:
    make(store, "s1", "v1")
    run = begin(store, step("s2"), step("s3"))
    one, two = take(store, run)
    outcomes = [Publication(one, output(store, one, "v1")), Publication(two, output(store, two, "v2"))]
    assert [each.result for each in store.settle(outcomes, at(2))] == ["failed", "done"]
    assert store.versions(["v1"])["v1"].partition == "s1"


def test_a_group_of_everything_at_once(store: Store) -> None:
    make(store, "s9", "v9")
    run = begin(store, *(step(f"s{n}") for n in range(5)), step("s9", expects="v9"), step("t0", "s0", "s9"))
    claims = take(store, run)
    outcomes = [
        Publication(claims[0], output(store, claims[0], "w0")),
        Failure(claims[1], "bug", "broke", "traceback"),
        Failure(claims[2], "transient", "later", retry_in=60.0),
        Publication(msgspec.structs.replace(claims[3], fence=7), output(store, claims[3], "w3")),
        Reuse(claims[4], "v9"),
        Reuse(claims[5], "v9"),
    ]
    results = [each.result for each in store.settle(outcomes, at(3))]
    assert results == ["done", "failed", "retry", "fenced", "failed", "reused"]
    states = [each.state for each in store.steps(run)]
    assert states == ["done", "failed", "waiting", "running", "failed", "reused", "ready"]
    assert store.settle([], at(4)) == ()


# Reuse


def test_reuse_points_at_what_exists(store: Store) -> None:
    make(store, "s1", "v1")
    run = begin(store, step("s1"), step("s2"), step("t1", "s1"), environment="fix")
    one, two = take(store, run)
    results = store.settle([Reuse(one, "v1"), Reuse(two, "none")], at(3))
    assert [each.result for each in results] == ["reused", "failed"]
    assert store.pointers("fix") == {("a/b", "s1"): "v1"}
    assert [each.state for each in store.steps(run)] == ["reused", "failed", "ready"]
    assert store.steps(run)[0].version == "v1"
    assert store.released("fix") == {}


def test_reuse_through_the_base_sets_no_pointer(store: Store) -> None:
    make(store, "s1", "v1")
    run = begin(store, step("s1"), environment="fix")
    (claim,) = take(store, run)
    assert store.settle([Reuse(claim, "v1", point=False)], at(3))[0].result == "reused"
    assert store.pointers("fix") == {}
    assert store.pointer_log(environment="fix") == ()


def test_reuse_of_lost_data_or_of_a_moved_pointer_is_stale(store: Store) -> None:
    make(store, "s1", "v1")
    make(store, "s1", "v2")
    store.forget_versions(["v1"], at(3))
    run = begin(store, step("s1"), environment="fix")
    (claim,) = take(store, run)
    assert store.settle([Reuse(claim, "v1")], at(3))[0].result == "stale"
    moved = begin(store, step("s1", expects="v1"))
    (claim,) = take(store, moved)
    assert store.settle([Reuse(claim, "v2")], at(3))[0].result == "stale"


# Claims


def test_steps_are_claimed_in_the_order_of_the_plan(store: Store) -> None:
    run = begin(store, step("s2"), step("s1"), step("t1", "s2", "s1"), step("s0"))
    assert [each.step for each in take(store, run, limit=2)] == ["s2", "s1"]
    assert [each.step for each in take(store, run)] == ["s0"]
    assert take(store, run) == []


def test_a_step_waits_for_all_before_it(store: Store) -> None:
    run = begin(
        store, step("s1"), step("s2"), step("t1", "s1", "s2", "s1"), step("u1", "t1"), step("u2", "s1")
    )
    one, two = take(store, run)
    publish(store, one, "v1")
    assert [each.step for each in take(store, run)] == ["u2"]
    publish(store, two, "v2")
    (last,) = take(store, run)
    assert last.step == "t1"
    publish(store, last, "v3")
    assert [each.step for each in take(store, run)] == ["u1"]


def test_a_group_frees_what_waited_for_several_of_it(store: Store) -> None:
    run = begin(store, *(step(f"s{n}") for n in range(9)), step("t1", *(f"s{n}" for n in range(9))))
    claims = take(store, run)
    store.settle([Publication(c, output(store, c, f"v{c.step}")) for c in claims], at(2))
    assert [each.step for each in take(store, run)] == ["t1"]


def test_a_failed_step_frees_nothing_and_is_not_tried_again(store: Store) -> None:
    run = begin(store, step("s1"), step("t1", "s1"))
    (claim,) = take(store, run)
    assert store.settle([Failure(claim, "bug", "broke", "trace")], at(2))[0].result == "failed"
    assert take(store, run) == []
    (attempt,) = store.attempts(run)
    assert (attempt.failure_class, attempt.message, attempt.details) == ("bug", "broke", "trace")
    assert store.next_due() is None
    failed, ended = (msgspec.json.decode(event.body) for event in store.events()[-2:])
    assert (failed["type"], failed["final"]) == ("StepFailed", True)
    assert (ended["type"], ended["state"], ended["skipped"]) == ("RunEnded", "failed", 1)


def test_a_retry_waits_for_its_time(store: Store) -> None:
    run = begin(store, step("s1"), step("s2"))
    one, two = take(store, run)
    later = Failure(one, "transient", "once more", retry_in=3600.0)
    now = Failure(two, "transient", "once more", retry_in=0.0)
    assert [each.result for each in store.settle([later, now], at(2))] == ["retry", "retry"]
    assert store.next_due() == 0.0
    (again,) = take(store, run)
    assert (again.step, again.attempt) == ("s2", 2)
    assert publish(store, again, "v2") == "done"
    seconds = store.next_due()
    assert seconds is not None
    assert 3500 < seconds <= 3600
    assert store.steps(run)[1].failure_class is None
    assert [each.state for each in store.attempts(run, "s2")] == ["failed", "done"]


def test_what_a_dead_owner_ran_is_ready_again(store: Store) -> None:
    run = begin(store, step("s1"), step("s2"), step("s3"))
    dead = take(store, run, limit=2, owner="dead")
    alive = take(store, run, owner="alive")
    assert store.abandon("dead", at(2)) == 2
    assert store.owners(run) == ("alive",)
    assert publish(store, dead[0], "v1") == "fenced"
    assert [each.step for each in take(store, run, owner="new")] == ["s1", "s2"]
    assert publish(store, alive[0], "v3") == "done"
    assert [each.state for each in store.attempts(run, "s1")] == ["abandoned", "running"]


def test_two_stores_never_claim_the_same_step(open_same: Opener, store: Store) -> None:
    run = begin(store, *(step(f"s{n:03}") for n in range(120)))
    taken: list[str] = []

    def work(owner: str, mine: Store) -> None:
        while claims := mine.claim(Demand(owner, 3, lease=60.0, runs=[run]), at(1)):
            taken.extend(each.step for each in claims)
            results = mine.settle([Publication(c, output(mine, c, f"v{c.step}")) for c in claims], at(2))
            assert {each.result for each in results} == {"done"}

    others = [open_same() for _ in range(2)]
    threads = [threading.Thread(target=work, args=(f"w{n}", others[n % 2])) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [f"s{n:03}" for n in range(120)]
    assert len(store.pointers("production")) == 120
    assert len(store.pointer_log(limit=500)) == 120


# Runs


def test_a_run_is_kept_as_it_was_begun(store: Store) -> None:
    run = begin(store, step("s1"))
    kept = store.run(run)
    assert kept is not None
    assert (kept.pipeline, kept.environment, kept.state, kept.code) == (
        "p",
        "production",
        "running",
        "tree:1",
    )
    assert (kept.by, kept.reason, kept.plan, kept.created_at) == ("ann", "why", '{"a":1}', NOON)
    assert kept.ended_at is None
    assert store.run(run + 1) is None


def test_runs_are_listed_newest_first_without_their_plans(store: Store) -> None:
    first, second, third = begin(store), begin(store, environment="fix"), begin(store)
    assert [each.id for each in store.runs()] == [third, second, first]
    assert [each.id for each in store.runs(environment="production", limit=1)] == [third]
    assert store.runs(pipeline="none") == ()
    assert {each.plan for each in store.runs(pipeline="p")} == {""}


def test_a_plan_that_cannot_be_done_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="Two steps"):
        begin(store, step("s1"), step("s1"))
    with pytest.raises(StoreError, match="does not stand before"):
        begin(store, step("s1", "s2"), step("s2"))
    with pytest.raises(NotFound, match="nowhere"):
        begin(store, step("s1"), environment="nowhere")
    assert store.runs() == ()
    assert store.events() == ()


def test_a_run_that_ended_takes_back_its_claims(store: Store) -> None:
    run = begin(store, step("s1"), step("s2"), step("t1", "s1"))
    one, two = take(store, run)
    publish(store, one, "v1")
    store.end_run(run, "cancelled", at(5))
    assert publish(store, two, "v2") == "fenced"
    assert take(store, run) == []
    kept = store.run(run)
    assert kept is not None
    assert (kept.state, kept.ended_at) == ("cancelled", at(5))
    ended = msgspec.json.decode(store.events()[-1].body)
    assert (ended["published"], ended["failed"], ended["skipped"]) == (1, 0, 2)
    with pytest.raises(NotFound):
        store.end_run(run + 1, "done", at(5))


def test_a_run_taken_up_again_does_what_is_left(store: Store) -> None:
    run = begin(store, step("s1"), step("s2"), step("t1", "s2"))
    one, two = take(store, run)
    publish(store, one, "v1")
    store.settle([Failure(two, "bug", "broke")], at(2))
    store.end_run(run, "failed", at(3))
    assert store.reopen_run(run) == 2
    (again,) = take(store, run)
    assert (again.step, again.attempt) == ("s2", 2)
    assert publish(store, again, "v2") == "done"
    assert [each.step for each in take(store, run)] == ["t1"]
    with pytest.raises(NotFound):
        store.reopen_run(run + 1)


def test_task_seconds_are_the_mean_of_what_was_published(store: Store) -> None:
    make(store, "s1", "v1")
    make(store, "s2", "v2")
    assert store.task_seconds(["task s", "task none"]) == {"task s": 1.5}


# Moves


def release(store: Store, task: str, code: str) -> Move:
    return store.move(a_move(code=(CodeChange(task, None, code),)), at(9))


def test_promote_and_roll_back(store: Store) -> None:
    make(store, "s1", "v1")
    make(store, "s1", "f1", environment="fix")
    make(store, "s2", "f2", environment="fix")
    first = release(store, "task s", "c1")
    code = (CodeChange("task s", "c1", "c2"), CodeChange("task new", None, "n1"))
    promote = a_move(("s1", "v1", "f1"), ("s2", None, "f2"), code=code, code_name="git:abc")
    made = store.move(promote, at(10))
    assert (made.pointers, made.changes, made.code) == (2, promote.changes, code)
    assert (made.old_code_name, made.new_code_name, made.at) == ("", "git:abc", at(10))
    assert store.pointers("production") == {("a/b", "s1"): "f1", ("a/b", "s2"): "f2"}
    assert store.released("production") == {"task s": "c2", "task new": "n1"}
    production = store.environment("production")
    assert production is not None
    assert production.code == "git:abc"
    back = a_move(
        ("s1", "f1", "v1"),
        ("s2", "f2", None),
        kind="rollback",
        undoes=made.id,
        code=tuple(CodeChange(c.task, c.new, c.old) for c in code),
        code_name="",
    )
    undo = store.move(back, at(11))
    assert store.pointers("production") == {("a/b", "s1"): "v1"}
    assert store.released("production") == {"task s": "c1"}
    assert store.move_details(made.id).undone_by == undo.id
    assert store.move_details(undo.id) == undo
    assert store.move_details(made.id).changes == promote.changes
    with pytest.raises(StaleWorld, match=f"by move {undo.id}"):
        store.move(back, at(12))
    assert [each.id for each in store.moves("production")] == [undo.id, made.id, first.id]
    assert store.moves("fix") == ()
    assert store.moves(limit=1)[0].changes == ()
    assert store.events()[-1].kind == "PointersMoved"
    with pytest.raises(NotFound):
        store.move_details(undo.id + 1)


@pytest.mark.parametrize(
    "change",
    [("s1", None, "w1"), ("s1", "w1", "v1"), ("s1", "w1", None), ("s3", "v1", None), ("s1", None, None)],
)
def test_a_move_is_refused_whole_if_anything_moved(store: Store, change: tuple[str, str, str]) -> None:
    make(store, "s1", "v1")
    make(store, "s1", "w1", environment="fix")
    make(store, "s2", "w2", environment="fix")
    before = (store.pointers("production"), store.released("production"), store.pointer_log(), store.events())
    with pytest.raises(StaleWorld, match=change[0]):
        store.move(a_move(("s2", None, "w2"), change, code=(CodeChange("x", None, "1"),)), at(9))
    after = (store.pointers("production"), store.released("production"), store.pointer_log(), store.events())
    assert after == before
    assert store.moves() == ()


def test_a_move_is_refused_if_released_code_changed(store: Store) -> None:
    make(store, "s1", "v1")
    with pytest.raises(StaleWorld, match="task s"):
        store.move(a_move(("s1", "v1", None), code=(CodeChange("task s", "c0", "c2"),)), at(9))
    assert store.pointers("production") == {("a/b", "s1"): "v1"}


def test_an_error_names_the_first_few_that_moved(store: Store) -> None:
    make(store, "s1", "v1")
    changes = [(f"p{n:02}", "v1", None) for n in range(10)]
    with pytest.raises(StaleWorld, match=r"10 of 10 .*p00.*p01.*p02.*and 7 more") as error:
        store.move(a_move(*changes), at(9))
    assert "p03" not in str(error.value)


def test_a_move_shows_only_versions_that_exist_and_belong_there(store: Store) -> None:
    make(store, "s1", "v1")
    with pytest.raises(NotFound, match="none"):
        store.move(a_move(("s1", "v1", "none")), at(9))
    with pytest.raises(StoreError, match="not of"):
        store.move(a_move(("s2", None, "v1")), at(9))
    with pytest.raises(StoreError, match="twice"):
        store.move(a_move(("s1", "v1", None), ("s1", "v1", None)), at(9))
    with pytest.raises(NotFound, match="nowhere"):
        store.move(a_move(environment="nowhere"), at(9))
    with pytest.raises(NotFound, match="no move 77"):
        store.move(a_move(("s1", "v1", None), undoes=77), at(9))
    assert store.pointers("production") == {("a/b", "s1"): "v1"}


def test_a_year_of_pointers_moves_together(store: Store) -> None:
    names = [f"s{n:04}" for n in range(1460)]
    run = begin(store, *map(step, names), environment="fix")
    outcomes = []
    template = None
    for claim in take(store, run, limit=2000):
        template = template or output(store, claim, "x")
        made = msgspec.structs.replace(template, id=f"v{claim.step}", partition=claim.step, step=claim.step)
        outcomes.append(Publication(claim, made))
    assert {each.result for each in store.settle(outcomes, at(2))} == {"done"}
    changes = [(name, None, f"v{name}") for name in names]
    store.move(a_move(*changes), at(3))
    assert store.pointers("production") == store.pointers("fix")
    with pytest.raises(StaleWorld, match="1459 of 1460"):
        store.move(a_move(*changes[:-1], (names[-1], f"v{names[-1]}", None)), at(4))


# Time travel


def test_pointers_as_of_a_moment(store: Store) -> None:
    make(store, "s1", "v1", minutes=10)
    make(store, "s1", "v2", minutes=20)
    make(store, "s2", "v3", minutes=20)
    store.move(a_move(("s1", "v2", None)), at(30))
    one, two = ("a/b", "s1"), ("a/b", "s2")
    assert store.pointers("production", as_of=at(9)) == {}
    assert store.pointers("production", as_of=at(10)) == {one: "v1"}
    assert store.pointers("production", as_of=at(25)) == {one: "v2", two: "v3"}
    assert store.pointers("production", as_of=at(30)) == store.pointers("production") == {two: "v3"}
    assert store.pointers("production", datasets=["a/b", "c"], as_of=at(10)) == {one: "v1"}
    assert store.pointers("production", datasets=["c"], as_of=at(10)) == {}
    assert store.pointers("production", datasets=["c"]) == {}
    assert store.pointers("production", datasets=["a/b"]) == {two: "v3"}
    assert [each.version for each in store.pointer_log(partition="s1")] == [None, "v2", "v1"]
    assert store.pointer_log(dataset="c") == ()
    assert len(store.pointer_log(environment="production", limit=2)) == 2


def test_a_moment_needs_a_time_zone(store: Store) -> None:
    with pytest.raises(StoreError, match="time zone"):
        store.pointers("production", as_of=datetime(2013, 1, 1))  # noqa: DTZ001 - refused on purpose


# What may go


def test_what_nobody_needs_may_go(store: Store) -> None:
    make(store, "s1", "v1", minutes=10)
    make(store, "s1", "v2", minutes=20)
    make(store, "s1", "v3", minutes=30)
    assert store.unreferenced_versions(at(0)) == ()
    assert [v.id for v in store.unreferenced_versions(at(30))] == ["v1"]
    assert [v.id for v in store.unreferenced_versions(at(31))] == ["v1", "v2"]
    assert store.forget_versions(["v1", "v2", "v3", "none"], at(40), keep_since=at(30)) == 1
    assert store.forget_versions(["v1", "v2", "v3"], at(40)) == 1
    assert store.data_gone(["v1", "v2", "v3"]) == {"v1", "v2"}
    assert store.unreferenced_versions(at(31)) == ()
    assert set(store.versions(["v1"])) == {"v1"}
    with pytest.raises(StaleWorld, match="data of version v1"):
        store.move(a_move(("s1", "v3", "v1")), at(50))


def test_an_unfinished_run_keeps_what_it_made(store: Store) -> None:
    run = begin(store, step("s1"), step("s2"))
    (claim,) = take(store, run, limit=1)
    publish(store, claim, "v1")
    store.move(a_move(("s1", "v1", None)), at(3))
    assert store.unreferenced_versions(at(99)) == ()
    assert store.forget_versions(["v1"], at(99)) == 0
    store.end_run(run, "done", at(4))
    assert [v.id for v in store.unreferenced_versions(at(99))] == ["v1"]


def test_all_versions_come_oldest_first(store: Store) -> None:
    for name in ("3", "1", "2"):
        make(store, f"s{name}", f"v{name}")
    assert [each.id for each in store.all_versions()] == ["v1", "v2", "v3"]


# Comparisons


def test_comparisons_are_kept(store: Store) -> None:
    record = ComparisonRecord(
        0, "fix", "production", at(1), passed=True, verdict="same", world="w", summary="{}", report="r.html"
    )
    first, second = store.save_comparison(record), store.save_comparison(record)
    newest, oldest = store.comparisons("fix")
    assert (newest.id, oldest.id) == (second, first)
    assert msgspec.structs.replace(newest, id=0) == record
    assert len(store.comparisons("fix", limit=1)) == 1
    assert store.comparisons("production") == ()


def test_what_one_store_acknowledged_another_one_sees(open_same: Opener, store: Store) -> None:
    other = open_same()
    make(store, "s1", "v1")
    assert other.pointers("production") == {("a/b", "s1"): "v1"}
    make(other, "s1", "v2")
    assert store.pointers("production") == {("a/b", "s1"): "v2"}
    store.close()
    assert open_same().pointers("production") == {("a/b", "s1"): "v2"}
