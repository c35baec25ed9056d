"""What must be true: ready-made checks of one dataset, and rules for comparing two versions of it.

Checks run before a version is published; rules are applied when a candidate is compared with production.
"""

from sidestage.checks.columns import columns
from sidestage.checks.ready import allowed, between, expect, matches, not_null, row_count, unique
from sidestage.checks.rules import (
    ignore,
    max_changed,
    max_extra,
    max_missing,
    null_equals,
    same_total,
    tolerance,
)

__all__ = [
    "allowed",
    "between",
    "columns",
    "expect",
    "ignore",
    "matches",
    "max_changed",
    "max_extra",
    "max_missing",
    "not_null",
    "null_equals",
    "row_count",
    "same_total",
    "tolerance",
    "unique",
]
