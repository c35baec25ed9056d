"""Orders by day, and the revenue they bring by product."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sidestage import Daily, Dataset, Partition, Pipeline, Playbook
from sidestage.checks import between, not_null, row_count, same_total, unique

SOURCE = Path(__file__).parents[2] / "data" / "orders.csv"

days = Daily(start="2026-01-01", end="2026-01-07", tz="Europe/Berlin")

orders = Dataset(
    "orders",
    days,
    key=["order_id"],
    checks=[unique("order_id"), not_null("product"), between("amount", 0, 10_000), row_count(at_least=1)],
)
revenue = Dataset(
    "revenue",
    days,
    key=["product"],
    checks=[unique("product")],
    compare=[same_total("revenue", within=0.05)],
)

pipeline = Pipeline("__project__", owner="you@example.org", playbook=Playbook.load("playbooks/__project__.md"))


@dataclass(frozen=True)
class Order:
    """One order, as the shop's system exports it."""

    order_id: int
    ordered_at: datetime
    product: str
    quantity: int
    amount: float


@pipeline.task(writes=orders)
def extract(day: Partition) -> Iterator[Order]:
    """Read the orders of one day."""
    with SOURCE.open(newline="") as file:
        for row in csv.DictReader(file):
            order = parse(row)
            if order.ordered_at.date() == day.date:
                yield order


def parse(row: dict[str, str]) -> Order:
    """Turn one line of the export into an order."""
    return Order(
        order_id=int(row["order_id"]),
        ordered_at=datetime.fromisoformat(row["ordered_at"]),
        product=row["product"].strip().lower(),
        quantity=int(row["quantity"]),
        amount=float(row["amount"]),
    )


pipeline.sql("add_up", reads=orders, writes=revenue, query="revenue.sql")
