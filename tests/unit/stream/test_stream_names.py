"""What ``sidestage.stream`` offers is written down."""

import re
from pathlib import Path

import sidestage.stream

REFERENCE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "python.md"


def test_every_name_is_in_the_reference() -> None:
    words = set(re.findall(r"\w+", REFERENCE.read_text()))
    assert sorted(set(sidestage.stream.__all__) - words) == []
