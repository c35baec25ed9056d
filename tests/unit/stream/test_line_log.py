"""Lines are appended whole, whoever else appends, and whatever was cut off before."""

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from sidestage.stream.letters.line_log import LineLog


def test_lines_of_several_writers_stay_whole(tmp_path: Path) -> None:
    logs = [LineLog(tmp_path / "log") for _ in range(4)]

    def write(number: int) -> None:
        for each in range(200):
            logs[number].add(f"{number}-{each}-{'x' * 500}".encode())
            if each % 7 == 0:
                logs[number].sync()
        logs[number].close()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = (tmp_path / "log").read_text().splitlines()
    assert sorted(lines) == sorted(f"{n}-{each}-{'x' * 500}" for n in range(4) for each in range(200))


def test_what_another_writer_left_half_written_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = LineLog(path)
    log.add(b"one")
    log.sync()
    with path.open("ab") as other:
        other.write(b"two\nhal")
    log.add(b"three")
    log.close()
    assert path.read_bytes() == b"one\ntwo\nthree\n"


def test_a_write_that_fails_leaves_nothing_and_is_made_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = LineLog(tmp_path / "log")
    log.add(b"one")
    log.sync()
    write = os.write

    def full(number: int, data: Any) -> int:
        monkeypatch.setattr(os, "write", nothing)
        return write(number, data[:2])

    def nothing(_number: int, _data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    log.add(b"two")
    with pytest.raises(OSError, match="No space"):
        log.sync()
    assert (tmp_path / "log").read_bytes() == b"one\n"
    monkeypatch.setattr(os, "write", write)
    log.close()
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\n"


def test_a_closed_one_takes_nothing_more(tmp_path: Path) -> None:
    log = LineLog(tmp_path / "log")
    log.close()
    log.close()
    with pytest.raises(ValueError, match="closed"):
        log.add(b"one")
