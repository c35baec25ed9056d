"""Playbooks: what their Markdown may look like."""

import contextlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sidestage.errors import DefinitionError
from sidestage.pipeline.playbook import KnownFailure, Playbook, parse

steady = settings(derandomize=True, database=None, deadline=None, max_examples=200)

ENTRY = "## The export is late\nSymptom: nothing for a day.\nLook: data/orders.csv,\nthe newest line.\nDo: wait.\n"


def test_an_entry():
    wanted = KnownFailure(
        "The export is late", "nothing for a day.", "data/orders.csv,\nthe newest line.", "wait."
    )
    assert parse(f"# Playbook\n\nWords before.\n\n{ENTRY}", "p.md") == (wanted,)
    assert parse(ENTRY.replace("\n", "\r\n"), "p.md")[0].title == "The export is late"


def test_fields_in_any_order_and_over_paragraphs():
    text = (
        "## T\n\nDo: first\n\nthen second\n\n- third\nSymptom: s\nLook: l\n## U\nSymptom: 1\nLook: 2\nDo: 3\n"
    )
    first, second = parse(text, "p.md")
    assert first == KnownFailure("T", "s", "l", "first\n\nthen second\n\n- third")
    assert second == KnownFailure("U", "1", "2", "3")


def test_a_deeper_heading_does_not_begin_an_entry():
    text = ENTRY.replace("wait.", "wait.\n### If that does not help\nCall.")
    assert parse(text, "p.md")[0].do == "wait.\n### If that does not help\nCall."


@pytest.mark.parametrize("name", ["Symptom", "Look", "Do"])
@pytest.mark.parametrize("how", ["absent", "empty"])
def test_missing_parts_are_named(name, how):
    parts = [f"{part}:{'' if part == name else ' x'}" for part in ("Symptom", "Look", "Do")]
    lines = [part for part in parts if how == "empty" or not part.startswith(name)]
    with pytest.raises(DefinitionError, match=f"p.md: the failure 'T' lacks {name}\\.") as caught:
        parse("\n".join(["## T", *lines]), "p.md")
    assert caught.value.hint


@steady
@given(st.text(alphabet="#SymptoLkDo: \n\r\tx`", max_size=80) | st.text())
def test_any_text_is_read_or_refused(text):
    found = ()
    with contextlib.suppress(DefinitionError):
        found = parse(text, "p.md")
    assert all(failure.symptom and failure.look and failure.do for failure in found)


words = st.text(alphabet="abc .,`-_/é", min_size=1).map(str.strip).filter(bool)


@steady
@given(st.lists(st.builds(KnownFailure, words, words, words, words), max_size=5))
@example([KnownFailure("a", "b", "c", "d")])
def test_what_was_written_is_read(failures):
    text = "# Playbook\n" + "".join(
        f"\n## {f.title}\n\nSymptom: {f.symptom}\nLook: {f.look}\nDo: {f.do}\n" for f in failures
    )
    assert parse(text, "p.md") == tuple(failures)


def test_loading_looks_above_the_caller(tmp_path, monkeypatch):
    code = tmp_path / "src" / "flow.py"
    code.parent.mkdir()
    space: dict = {"Playbook": Playbook}
    exec(compile("def load(path):\n    return Playbook.load(path)\n", str(code), "exec"), space)
    with pytest.raises(
        DefinitionError, match=r"no playbook 'playbooks/flow.md' in any folder above .*flow\.py"
    ):
        space["load"]("playbooks/flow.md")
    (tmp_path / "playbooks").mkdir()
    (tmp_path / "playbooks" / "flow.md").write_text(ENTRY)
    assert space["load"]("playbooks/flow.md").failures == parse(ENTRY, "x")
