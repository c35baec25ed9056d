"""Log events for the example: JSON lines as a service would write them, a few of them broken."""

import random
from collections.abc import Iterator

USUAL_USERS = 9_000
"""Users who make 95 of 100 events; the others are seen hardly more than once."""

OTHER_USERS = 10_000_000
BROKEN_EVERY = 10_007
SERVICES = ("checkout", "search", "basket", "login", "mail")


def lines(first: int, count: int, seed: int = 1) -> Iterator[bytes]:
    """Yield so many events, numbered from ``first`` on. Every 10,007th is cut off, as a full disk does it."""
    chance = random.Random(seed + first)
    pick, draw = chance.randrange, chance.random
    for number in range(first, first + count):
        user = pick(USUAL_USERS) if draw() < 0.95 else USUAL_USERS + pick(OTHER_USERS)
        line = (
            f'{{"id":{number},"time":{1_760_000_000 + number // 1000},"user":"user-{user}",'
            f'"service":"{SERVICES[number % 5]}","path":"/v1/items/{number % 9973}","status":200,'
            f'"milliseconds":{number % 500 + 0.5}}}'
        ).encode()
        yield line[:40] if number % BROKEN_EVERY == BROKEN_EVERY - 1 else line
