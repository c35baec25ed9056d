"""A replay that is killed again and again: every item is replayed in the end, and no letter is lost."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.unit.stream.letters import letter

from sidestage.stream.letters.folder import LetterFolder
from sidestage.stream.letters.reading import LetterReading

SHOP = """
import os
import time
from sidestage.stream import Called, Settings

written = os.open("written", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def write(items):
    time.sleep(0.002)
    if items[-1] > 2900:  # it ends only if it may, so that it is always killed before
        open("held", "w").close()
        while not os.path.exists("may-end"):
            time.sleep(0.01)
    os.write(written, "".join(f"{n}\\n" for n in items).encode())
    os.fsync(written)


def odd(n):
    if n % 10 == 0:
        raise ValueError(n)
    return n


def again(stream):
    terms = Settings(chunk=8, commit_every=0.01)
    return stream.map(odd, workers=2).to(Called(write)).with_settings(terms)
"""
ITEMS = 3000
KILLS = 4


def test_a_replay_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    with LetterFolder(tmp_path / "letters") as letters:
        for place in range(ITEMS):
            letters(letter(place, place=place))
    chance = random.Random(5)
    command = [
        sys.executable,
        "-m",
        "sidestage",
        "stream",
        "replay",
        "letters",
        "shop:again",
        "--stage",
        "decode",
    ]
    for kills in range(KILLS + 1):
        with (tmp_path / "log").open("ab") as log:
            process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
            before = size_of(tmp_path / "written")
            while (
                process.poll() is None
                and size_of(tmp_path / "written") == before
                and not (tmp_path / "held").exists()
            ):
                time.sleep(0.005)
            if kills < KILLS:
                time.sleep(chance.random() * 0.1)
                process.send_signal(signal.SIGKILL)
            else:
                (tmp_path / "may-end").touch()
            status = process.wait()
        assert status == (-signal.SIGKILL if kills < KILLS else 0), (tmp_path / "log").read_text()
    written = [int(line) for line in (tmp_path / "written").read_text().split()]
    assert set(written) == {n for n in range(ITEMS) if n % 10}
    left = [each.letter.value() for each in LetterReading(tmp_path / "letters") if not each.is_replayed]
    assert set(left) == {n for n in range(ITEMS) if n % 10 == 0}
    assert LetterReading(tmp_path / "letters").damaged == 0


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
