"""Tasks are plain functions: no platform is needed to test them."""

from datetime import date

from __project__.pipeline import days, extract, parse


def test_a_line_of_the_export_becomes_an_order():
    row = {
        "order_id": "7",
        "ordered_at": "2026-01-02T09:30:00",
        "product": " Tea ",
        "quantity": "2",
        "amount": "9.80",
    }
    order = parse(row)
    assert (order.order_id, order.product, order.amount) == (7, "tea", 9.8)


def test_extract_takes_only_the_orders_of_the_day():
    found = list(extract(days.parse("2026-01-03")))
    assert found
    assert {order.ordered_at.date() for order in found} == {date(2026, 1, 3)}
