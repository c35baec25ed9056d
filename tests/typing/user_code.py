"""User code as the type checker sees it. A line that must be refused says with which code."""

from collections.abc import Iterator
from pathlib import Path

from sidestage import (
    Daily,
    Dataset,
    Monthly,
    Partition,
    Pipeline,
    Playbook,
    Product,
    Project,
    Retry,
    Selection,
    SidestageError,
    Static,
    all_of,
    window,
)
from sidestage.checks import not_null, row_count, same_total, unique

days = Daily(start="2013-01-01", tz="Europe/Berlin")
raw = Dataset("raw", days, checks=[unique("id"), not_null("id"), row_count(at_least=1)])
out = Dataset("out", days, key=["id"], compare=[same_total("amount", within=0.001)])
monthly = Dataset("monthly", Monthly("2013-01"))
places = Product({"day": days, "region": Static(["eu", "us"])})
pipeline = Pipeline("shop", owner="ann@example.org", retry=Retry(times=5), playbook=Playbook.load("shop.md"))


@pipeline.task(writes=raw)
def extract(day: Partition) -> Iterator[dict[str, int]]:
    yield {"id": day.date.year}


@pipeline.task(reads={"rows": raw, "before": window(raw, before=1)}, writes=out)
def clean(day: Partition, rows: list[dict[str, int]], before: list[dict[str, int]]) -> list[dict[str, int]]:
    return rows + before


pipeline.sql("sum_up", reads=all_of(out), writes=monthly, query="select 1")

# A task stays the function that it is: it can be called, and the call is checked.
rows: list[dict[str, int]] = clean(days.parse("2013-01-01"), [], [])


def run(root: Path) -> str:
    try:
        with Project.open(root) as project:
            plan = project.plan(Selection("shop", "2013-01"))
            return plan.steps[0].reason.text
    except SidestageError as error:
        return error.hint


clean(days.parse("2013-01-01"), [])  # refused: call-arg
clean("2013-01-01", [], [])  # refused: arg-type
text: str = extract(days.parse("2013-01-01"))  # refused: assignment
Dataset(5)  # refused: arg-type
Dataset("x", "daily")  # refused: arg-type
Dataset("x", checks=["unique"])  # refused: list-item
Retry(times="5")  # refused: arg-type
colour = raw.name.colour  # refused: attr-defined
pipeline.task(reads=raw)  # refused: call-arg
pipeline.task(reads=[raw, "out"], writes=out)  # refused: list-item
pipeline.sql("x", reads=raw, writes=out)  # refused: call-arg
Selection("shop", partitions=days)  # refused: arg-type
