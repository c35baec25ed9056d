"""Lines that are appended, and standard output: what was written stays, what is no line is refused."""

import errno
import io
import os
import subprocess
import sys
import threading

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestage.connectors import line_files
from sidestage.connectors.line_files import JsonLinesFile, LinesFile
from sidestage.connectors.standard_output import StandardOutput
from sidestage.stream.contract import Refused
from sidestage.stream.stream import Stream


def test_lines_are_appended_to_what_is_there(tmp_path):
    path = tmp_path / "out"
    for text in ("one", "two"):
        Stream([text, f"{text} again", b"\xff"]).to(LinesFile(path, encoding="latin-1")).run()
    assert path.read_bytes() == b"one\none again\n\xff\ntwo\ntwo again\n\xff\n"


def test_json_is_appended(tmp_path):
    path = tmp_path / "out"
    Stream([{"a": 1}, ["€\u2028\n"], None]).to(JsonLinesFile(path)).run()
    assert [msgspec.json.decode(line) for line in path.read_bytes().splitlines()] == [
        {"a": 1},
        ["€\u2028\n"],
        None,
    ]


def test_what_is_no_line_is_refused_alone(tmp_path):
    path = tmp_path / "out"
    writer = LinesFile(path, encoding="ascii").open()
    with pytest.raises(Refused) as caught:
        writer.write(["good", "a\nb", "ä", "good too"])
    assert {index: type(error) for index, error in caught.value.errors.items()} == {
        1: ValueError,
        2: UnicodeEncodeError,
    }
    writer.close()
    writer.close()
    assert path.read_text() == "good\ngood too\n"
    with pytest.raises(ValueError, match="is closed"):
        writer.write(["late"])
    writer = JsonLinesFile(path).open()
    with pytest.raises(Refused) as caught:
        writer.write([1, object(), msgspec.Raw(b"[\n]")])
    writer.close()
    assert sorted(caught.value.errors) == [1, 2]


@settings(deadline=None)
@given(st.lists(st.text(alphabet="a€\u2028", max_size=4), max_size=5), st.integers(0, 40))
def test_a_torn_line_is_moved_aside_wherever_it_was_torn(tmp_path_factory, texts, cut):
    folder = tmp_path_factory.mktemp("torn")
    path, torn = folder / "out", folder / "out.torn"
    writer = LinesFile(path).open()
    writer.write(texts)
    writer.close()
    data = path.read_bytes()[:cut]
    path.write_bytes(data)
    whole, _, rest = data.rpartition(b"\n")
    writer = LinesFile(path).open()
    writer.write(["new"])
    writer.close()
    assert path.read_bytes() == (whole + b"\n" if b"\n" in data else b"") + b"new\n"
    assert (torn.read_bytes() if torn.exists() else b"") == (rest + b"\n" if rest else b"")


def test_what_was_written_in_part_does_not_stay(tmp_path, monkeypatch):
    path = tmp_path / "out"
    writer = LinesFile(path).open()
    writer.write(["one"])
    real, calls = os.write, []

    def fails(number, data):
        calls.append(1)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "full")
        return real(number, data[:3])

    with monkeypatch.context() as patched:
        patched.setattr(line_files.os, "write", fails)
        with pytest.raises(OSError, match="full"):
            writer.write(["two", "three"])
    assert path.read_text() == "one\n"
    writer.write(["two"])
    writer.close()
    assert path.read_text() == "one\ntwo\n"


def test_several_write_at_once_and_no_line_is_broken(tmp_path):
    path = tmp_path / "out"

    def work(number):
        writer = LinesFile(path).open()
        for n in range(20):
            writer.write([f"{number} {n} {'x' * 5000}"] * 3)
        writer.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = path.read_text().splitlines()
    assert len(lines) == 4 * 20 * 3
    assert {len(line) > 5000 for line in lines} == {True}
    assert not (tmp_path / "out.torn").exists()


def test_standard_output_shows_lines(capsys):
    sys.stdout.write("before\n")
    sink = StandardOutput()
    Stream(["one", 2, b"three"]).to(sink).run()
    with pytest.raises(Refused) as caught:
        sink.write(["good", "a\nb"])
    assert list(caught.value.errors) == [1]
    StandardOutput(lambda n: f"<{n}>").write([1])
    sink.write([])
    assert capsys.readouterr().out == "before\none\n2\nthree\ngood\n<1>\n"


def test_standard_output_without_bytes_beneath_shows_lines(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    StandardOutput().write(["ä"])
    assert out.getvalue() == "ä\n"


def test_who_reads_no_more_ends_the_stream_and_is_named():
    code = """
import itertools
from sidestage.connectors.standard_output import StandardOutput
from sidestage.stream import Stream
print("printed")
try:
    Stream(map(str, itertools.count())).to(StandardOutput()).run()
except Exception as error:
    import sys
    print(error.__cause__, file=sys.stderr)
"""
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert [process.stdout.readline() for _ in range(3)] == [b"printed\n", b"0\n", b"1\n"]
    process.stdout.close()
    told = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait() == 0
    assert told.startswith("Standard output is closed: whoever read it has ended.")
    assert len(told.splitlines()) == 1
