"""Checkpoints: the newest that is whole counts, whatever was cut off or overwritten."""

from pathlib import Path

import pytest

from sidestage.errors import DataError
from sidestage.stream.checkpoint import Checkpoint


def saved(path: Path, *positions: int) -> Checkpoint:
    checkpoint = Checkpoint(path)
    for position in positions:
        checkpoint.save("clicks", {"topic/0": position})
    return checkpoint


def test_what_was_saved_is_there_for_the_next(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    assert Checkpoint(path).positions("clicks") == {}
    first = saved(path, 5, 7)
    first.save("clicks", {"topic/1": "page 3"})
    first.save("orders", {"all": 9})
    again = Checkpoint(path)
    assert again.positions("clicks") == {"topic/0": 7, "topic/1": "page 3"}
    assert again.positions("orders") == {"all": 9}
    assert again.progress.number == 4
    assert sorted(each.name for each in tmp_path.iterdir()) == ["checkpoint", "checkpoint.previous"]


@pytest.mark.parametrize("damage", [b"", b"{", b"\x00" * 100, b'{"version":1,"checksum":"x","progress":{}}'])
def test_the_one_before_counts_if_the_newest_is_damaged(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "checkpoint"
    saved(path, 5, 7)
    path.write_bytes(damage)
    again = Checkpoint(path)
    assert again.positions("clicks") == {"topic/0": 5}
    again.save("clicks", {"topic/0": 6})
    assert Checkpoint(path).positions("clicks") == {"topic/0": 6}


def position(path: Path) -> object:
    try:
        return Checkpoint(path).positions("clicks")["topic/0"]
    except DataError as error:
        return "later release" if "later release" in error.message else error


def test_every_byte_of_a_checkpoint_counts(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    saved(path, 5, 7)
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert position(path) in (5, 7, "later release"), at
        path.write_bytes(whole[:at])
        assert Checkpoint(path).positions("clicks") == {"topic/0": 5}


def test_a_crash_between_the_two_names_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    saved(path, 5, 7)
    path.replace(tmp_path / "checkpoint.previous")
    assert Checkpoint(path).positions("clicks") == {"topic/0": 7}


def test_two_damaged_ones_are_said(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    checkpoint = saved(path, 5, 7)
    path.write_bytes(b"?")
    checkpoint.previous.write_bytes(b"?")
    with pytest.raises(DataError, match="cannot be read") as error:
        Checkpoint(path)
    assert "Move the files away" in error.value.hint
    path.write_bytes(b'{"version":2,"checksum":"x","progress":{}}')
    with pytest.raises(DataError, match="later release"):
        Checkpoint(path)
