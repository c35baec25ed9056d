"""What may differ between production and a candidate.

Rules of a column say which differences are none: ``tolerance``, ``ignore``, ``null_equals``. Rules of the
dataset decide whether a comparison passes: ``same_total``, ``max_changed``, ``max_missing``, ``max_extra``.
Without any of the latter, differences are reported and people decide.
"""

import msgspec

from sidestage.errors import DefinitionError


class Tolerance(msgspec.Struct, frozen=True, tag="tolerance"):
    """Values a (candidate) and b (production) are equal if |a - b| <= absolute + relative * |b|.

    Both are taken as 64-bit floats, or as seconds for dates and times. Only finite values are tolerated:
    NULL, NaN and infinities must be the same on both sides.
    """

    column: str
    absolute: float = 0.0
    relative: float = 0.0

    @property
    def name(self) -> str:
        """The rule as it is written."""
        return f"tolerance({self.column}, absolute={self.absolute:g}, relative={self.relative:g})"


class Ignore(msgspec.Struct, frozen=True, tag="ignore"):
    """The column is not compared."""

    column: str

    @property
    def name(self) -> str:
        """The rule as it is written."""
        return f"ignore({self.column})"


class NullEquals(msgspec.Struct, frozen=True, tag="null_equals"):
    """NULL in the column is the same as a value."""

    column: str
    value: str | int | float | bool

    @property
    def name(self) -> str:
        """The rule as it is written."""
        return f"null_equals({self.column}, {self.value!r})"


class SameTotal(msgspec.Struct, frozen=True, tag="same_total"):
    """The column's sum differs by at most ``within`` times production's sum, over all partitions."""

    column: str
    within: float = 0.0

    @property
    def name(self) -> str:
        """The rule as it is written."""
        return f"same_total({self.column}, within={self.within:g})"


class MaxChanged(msgspec.Struct, frozen=True, tag="max_changed"):
    """At most this fraction of matched rows is changed; with ``column``, only its changes count."""

    rate: float
    column: str | None = None

    @property
    def name(self) -> str:
        """The rule as it is written."""
        suffix = f", column={self.column}" if self.column is not None else ""
        return f"max_changed({self.rate:g}{suffix})"


class MaxMissing(msgspec.Struct, frozen=True, tag="max_missing"):
    """At most this fraction of production's rows is missing."""

    rate: float

    @property
    def name(self) -> str:
        """The rule as it is written."""
        return f"max_missing({self.rate:g})"


class MaxExtra(msgspec.Struct, frozen=True, tag="max_extra"):
    """Extra rows are at most this fraction of production's rows."""

    rate: float

    @property
    def name(self) -> str:
        """The rule as it is written."""
        return f"max_extra({self.rate:g})"


AnyRule = Tolerance | Ignore | NullEquals | SameTotal | MaxChanged | MaxMissing | MaxExtra


def tolerance(column: str, *, absolute: float = 0.0, relative: float = 0.0) -> Tolerance:
    """Treat values as equal if |candidate - production| <= absolute + relative * |production|.

    For dates and times ``absolute`` is in seconds. Raises DefinitionError for negative tolerances.
    """
    _at_least_zero("absolute", absolute)
    _at_least_zero("relative", relative)
    return Tolerance(column, absolute, relative)


def ignore(column: str) -> Ignore:
    """Leave a column out of the comparison."""
    return Ignore(column)


def null_equals(column: str, value: str | float | bool) -> NullEquals:
    """Treat NULL in the column as that value, on both sides."""
    return NullEquals(column, value)


def same_total(column: str, *, within: float = 0.0) -> SameTotal:
    """Require |candidate's sum - production's sum| <= within * |production's sum|.

    Raises DefinitionError if ``within`` is negative.
    """
    _at_least_zero("within", within)
    return SameTotal(column, within)


def max_changed(rate: float, *, column: str | None = None) -> MaxChanged:
    """Require that at most this fraction of matched rows is changed (in one column, if named).

    Raises DefinitionError unless the rate is between 0 and 1.
    """
    return MaxChanged(_fraction(rate), column)


def max_missing(rate: float) -> MaxMissing:
    """Require that at most this fraction of production's rows is missing. Raises DefinitionError."""
    return MaxMissing(_fraction(rate))


def max_extra(rate: float) -> MaxExtra:
    """Require that extra rows are at most this fraction of production's rows. Raises DefinitionError."""
    _at_least_zero("rate", rate)
    return MaxExtra(rate)


def _at_least_zero(what: str, value: float) -> None:
    if not value >= 0:
        raise DefinitionError(f"{what} is {value}, but cannot be negative.", hint="Give a number from 0 up.")


def _fraction(rate: float) -> float:
    if not 0 <= rate <= 1:
        raise DefinitionError(
            f"The rate {rate} is not a fraction.", hint="Give a number between 0 and 1; 0.01 is one percent."
        )
    return rate
