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


def test_a_replay_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    with LetterFolder(tmp_path / "letters") as letters:
        for place in range(ITEMS):
            letters(letter(place, place=place))
    chance, kills = random.Random(5), 0
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
    for _ in range(40):
        with (tmp_path / "log").open("ab") as log:
            process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
            before = size_of(tmp_path / "written")
            while process.poll() is None and size_of(tmp_path / "written") == before:
                time.sleep(0.005)
            if kills < 4:
                time.sleep(chance.random() * 0.1)
                process.send_signal(signal.SIGKILL)
            status = process.wait()
        if status == 0:
            break
        assert status == -signal.SIGKILL, (tmp_path / "log").read_text()
        kills += 1
    assert kills > 0
    assert status == 0
    written = [int(line) for line in (tmp_path / "written").read_text().split()]
    assert set(written) == {n for n in range(ITEMS) if n % 10}
    left = [each.letter.value() for each in LetterReading(tmp_path / "letters") if not each.is_replayed]
    assert set(left) == {n for n in range(ITEMS) if n % 10 == 0}
    assert LetterReading(tmp_path / "letters").damaged == 0


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
