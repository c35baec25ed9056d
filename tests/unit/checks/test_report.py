"""The report: nothing of the data can become markup, and nothing is rounded away."""

import io
from html.parser import HTMLParser

import msgspec
import pytest
from rich.console import Console

from sidestage.checks.result import (
    ColumnComparison,
    Comparison,
    DatasetComparison,
    Discrepancies,
    Keys,
    PartitionComparison,
    RuleOutcome,
    Sample,
    Segment,
    SideIdentity,
    conclude,
)
from sidestage.release.report import _percent, render_html, render_text, to_json

EVIL = "<script>alert('x')</script> & \"\x1b[31m [bold]"


def comparison() -> Comparison:
    dataset = DatasetComparison(
        dataset=EVIL,
        key=(EVIL,),
        verdict="broken",
        passed=False,
        rows_base=1000,
        rows_candidate=1001,
        matched=990,
        changed=7,
        within_tolerance=2,
        missing=10,
        extra=11,
        keys=Keys(1, 2, 3, 4, new=1),
        columns=(
            ColumnComparison(
                EVIL, "compared", "DOUBLE", "VARCHAR", 7, 0.007, 2, 1, 1, 3.5, 0.1, -1234.5, 5e-7
            ),
            ColumnComparison("new", "added", None, "INTEGER"),
            ColumnComparison("same", "compared", "DOUBLE", "DOUBLE"),
        ),
        partitions=(
            PartitionComparison(EVIL, "compared", 500, 501, 490, 7, 2, 10, 11),
            PartitionComparison("b", "equal digest", 500, 500, 500),
        ),
        segments=(Segment(EVIL, None, 7, 70, 0.1, 10.0), Segment("c", EVIL, 7, 70, 0.1, 10.0)),
        samples=(
            Sample("changed", "", EVIL, {EVIL: None}, {EVIL: "1"}, {EVIL: EVIL}),
            Sample("missing", "duplicate key", "b", {EVIL: "k"}, {"a": "1"}, {}),
            Sample("extra", "null key", "b", {EVIL: None}, {}, {"a": "2"}),
        ),
        rules=(
            RuleOutcome(EVIL, passed=False, observed=EVIL),
            RuleOutcome("kept", passed=True, observed="1"),
        ),
        notes=(EVIL,),
        discrepancies=Discrepancies(EVIL, 5, 5),
        seconds=61.5,
        bytes_read=123456,
    )
    equal = msgspec.structs.replace(
        dataset,
        dataset="equal",
        verdict="identical",
        passed=True,
        rules=(),
        notes=(),
        keys=Keys(),
        bytes_read=0,
    )
    sides = (SideIdentity(EVIL, EVIL, made=1, reused=3), SideIdentity("production"))
    return conclude(*sides, (dataset, equal), seconds=62.0)


class Tags(HTMLParser):
    """Collect elements, and check that they nest."""

    EMPTY = frozenset({"meta", "rect", "br", "link", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.EMPTY:
            assert self.open.pop() == tag


def test_the_page_is_self_contained_and_escaped():
    page = render_html(comparison(), EVIL, {EVIL: EVIL})
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert not tags.seen & {"script", "img", "link", "iframe", "object"}
    assert not {name for name in tags.attributes if name.startswith("on") or name == "src"}
    assert "default-src 'none'" in page
    assert "http://" not in page
    assert "https://" not in page


def test_the_verdict_comes_first():
    page = render_html(comparison(), "title", {})
    body = page[page.index("<body>") :]
    assert body.index("Broken") < body.index("Datasets") < body.index("Columns that differ")
    assert "-1,234.50" in body
    assert "+5e-07" in body


def test_text_cannot_steer_the_terminal():
    out = io.StringIO()
    Console(file=out, width=200, force_terminal=False).print(render_text(comparison()))
    text = out.getvalue()
    assert "\x1b" not in text
    assert "[bold]" in text  # shown, not obeyed
    assert text.index("broken") < text.index("dataset")


def test_json_comes_back():
    assert msgspec.json.decode(to_json(comparison()), type=Comparison) == comparison()


@pytest.mark.parametrize(
    ("rate", "text"), [(0, "0 %"), (1e-9, "< 0.01 %"), (0.5, "50 %"), (0.99999, "> 99.99 %"), (1.0, "100 %")]
)
def test_differences_are_never_rounded_to_nothing_or_all(rate, text):
    assert _percent(rate) == text
