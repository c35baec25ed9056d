"""Log events to be enriched: about 240 bytes of JSON each, from users of whom most have been seen before."""

import json
import random
from pathlib import Path

PARTITIONS = 16
CACHE = 10_000
"""Entries of the cache of one partition."""

BATCH = 1000
HOT = 100_000
"""Users who come again and again; with the strangers below they fill all caches to the brim."""

STRANGERS = PARTITIONS * CACHE - HOT
SHARE_OF_HOT = 0.95
SEED = 20_260_101
SERVICES = ("checkout", "search", "basket", "login", "mail")


def account_of(user: str) -> int:
    """Look a user up, which is what the caches save: here a free local function."""
    return int(user[5:]) * 7919 % 100_003


def users(size: int) -> tuple[list[str], list[str]]:
    """Return the users who fill the caches, and those of so many events that are measured.

    First come users who never come again, then all hot ones, so that each new stranger drives out an old one.
    """
    chance = random.Random(SEED)
    unseen = iter(range(HOT, HOT + STRANGERS + size))
    filling = [next(unseen) for _ in range(STRANGERS)] + list(range(HOT))
    measured = [
        chance.randrange(HOT) if chance.random() < SHARE_OF_HOT else next(unseen) for _ in range(size)
    ]
    return [f"user-{number:08}" for number in filling], [f"user-{number:08}" for number in measured]


def write_events(path: Path, size: int) -> int:
    """Write what fills the caches and then so many events; return the sum of the accounts of the latter."""
    filling, measured = users(size)
    with path.open("wb") as file:
        file.writelines(line(index, user) for index, user in enumerate(filling + measured))
    return sum(map(account_of, measured))


def read_lines(path: Path) -> list[bytes]:
    """Return the lines without their ends."""
    return path.read_bytes().splitlines()


def line(index: int, user: str) -> bytes:
    """Return one event of a user as JSON, with the end of its line."""
    event = {
        "time": f"2026-01-01T{index // 3600 % 24:02}:{index // 60 % 60:02}:{index % 60:02}Z",
        "user": user,
        "level": "info",
        "service": SERVICES[index % len(SERVICES)],
        "path": f"/v1/items/{index % 9973}/details",
        "status": 200,
        "milliseconds": index % 500 + 0.5,
        "message": f"request {index:08} was answered from the second shelf, in good order and in time",
    }
    return json.dumps(event, separators=(",", ":")).encode() + b"\n"
