"""User code as the type checker sees it. A line that must be refused says with which code."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeGuard

import polars as pl

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
from sidestage.connectors.kafka import KafkaSource, Message, messages, values
from sidestage.stream import BatchSize, DeadLetter, SideTable, Stream, Unjoined

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


# The type of items is followed through stages that change the shape of a stream.
class Click(NamedTuple):
    user: int
    at: float


class Order(NamedTuple):
    user: int
    at: float
    amount: float


def kind(click: Click) -> Literal["early", "late"]:
    return "early" if click.at < 5 else "late"


def is_click(item: Click | Order) -> TypeGuard[Click]:
    return isinstance(item, Click)


def doubled(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.col("at") * 2)


def users_of(clicks: list[Click]) -> list[int]:
    return [click.user for click in clicks]


clicks = Stream([Click(1, 2.0)])
orders = Stream([Order(1, 3.0, 9.5)])
frames: Stream[pl.DataFrame] = clicks.map_batches(doubled, BatchSize(rows=10, within=1.0), of="polars")
dicts: Stream[dict[str, Any]] = frames.rows()
users: Stream[int] = clicks.map_batches(users_of, 10, of="list")
there: Stream[int] = clicks.map_batches(users_of, 10, of="list", workers=2, on="process", timeout=9.0)
kept: Stream[Click] = clicks.filter(kind, on="process")
names: Stream[str] = clicks.join_table({1: "ann"}, lambda click: click.user, lambda click, name: name.upper())
by_id: SideTable[int, Order] = SideTable.of_rows([Order(1, 2.0, 3.0)], lambda order: order.user)
amounts: Stream[float] = clicks.join_table(by_id, lambda click: click.user, lambda click, order: order.amount)
ways = clicks.route(kind, ("early", "late"))
early: Stream[Click] = ways["early"]
only_clicks, others = clicks.merge(orders).split(is_click)
seen: Stream[Click] = only_clicks
rest: Stream[Click | Order] = others
letters: Stream[DeadLetter] = clicks.map(kind).failures()
pairs = clicks.join(
    orders,
    on=(lambda click: click.user, lambda order: order.user),
    within=(0, 60),
    time=(lambda click: click.at, lambda order: order.at),
)
bought: Stream[tuple[Click, Order]] = pairs
too_late: Stream[Unjoined] = pairs.late
totals: Stream[float] = pairs.map(lambda pair: pair[1].amount)

source = KafkaSource(servers="localhost:9092", topics=("clicks",), group="counts", items=values)
bodies: Stream[bytes | None] = Stream(source)
whole = KafkaSource(servers="localhost:9092", topics=("clicks",), group="counts", items=messages)
keys: Stream[bytes | None] = Stream(whole).map(lambda message: message.key)
read: Stream[Message] = Stream(whole)

mistaken: Stream[int] = Stream(source)  # refused: arg-type
clicks.map_batches(users_of, 10, of="polars")  # refused: call-overload
clicks.map_batches(users_of, of="list")  # refused: call-overload
clicks.map_batches(users_of, 10, of="list", on="cloud")  # refused: call-overload
clicks.map_batches(users_of, 10, of="list", worker=2)  # refused: call-overload
clicks.join_table({1: "ann"}, kind, lambda click, name: name)  # refused: arg-type
wrong: Stream[Order] = ways["late"]  # refused: assignment
