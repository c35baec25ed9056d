"""What starting costs, against starting Python itself.

Processes are started in turns, one of each kind per round, so that all kinds meet the same disturbances:

- python: ``python -c pass``
- import: ``python -c "import sidestage"``
- declare: the same, and the names used with which a pipeline is declared (a worker does so when it starts)
- help: ``python -m sidestage --help``

The time of a process start depends on the disk cache and on the machine. What it does not depend on is which
modules are loaded, so these are counted, and heavy libraries among them are named.

Usage: python benchmarks/startup.py [--rounds 100] [--quick]
"""

import argparse
import statistics
import subprocess
import sys
import time

from machine import describe, milliseconds

DECLARE = "from sidestage import Daily, Dataset, Partition, Pipeline, Playbook, Retry, all_of"
KINDS = {
    "python": ["-c", "pass"],
    "import": ["-c", "import sidestage"],
    "declare": ["-c", DECLARE],
    "help": ["-m", "sidestage", "--help"],
}
HEAVY = (
    *("alembic", "click", "duckdb", "jinja2", "msgspec", "numpy", "pandas", "polars", "pyarrow"),
    *("rich", "sqlalchemy", "xxhash"),
)
LOADED = "import sys; before = set(sys.modules)\n{code}\nprint(*sorted(set(sys.modules) - before))"
HELP = "import sidestage.cli.main as command; command.main(['--help'])"


def start(arguments: list[str]) -> float:
    """Return the seconds from starting a process to its end."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def loaded(code: str) -> list[str]:
    """Return the modules that some code loads beyond what Python itself does."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED.format(code=code)], stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout.splitlines()[-1].split()


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of starting.")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="5 rounds")
    options = parser.parse_args()
    describe("sidestage", "click", "msgspec")
    for arguments in KINDS.values():  # so that every file is in the disk cache, and compiled
        start(arguments)
    rounds = 5 if options.quick else options.rounds
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        for kind, arguments in KINDS.items():
            times[kind].append(start(arguments))
    print(f"{rounds} starts of each kind, in turns:")
    for kind, taken in times.items():
        print(f"  {kind:7} {milliseconds(taken)}")
    bare = statistics.median(times["python"])
    for kind, goal in (
        ("import", "at most 60 ms over python"),
        ("declare", "none"),
        ("help", "at most 250 ms"),
    ):
        middle = statistics.median(times[kind])
        print(
            f"ratio {kind} to python: {middle / bare:.2f}; {(middle - bare) * 1000:.1f} ms over python,"
            f" {middle * 1000:.1f} ms in all (goal: {goal})"
        )
    for kind, code in (("import", "import sidestage"), ("declare", DECLARE), ("help", HELP)):
        modules = loaded(code)
        heavy = sorted({name.partition(".")[0] for name in modules} & {*HEAVY})
        print(f"modules loaded by {kind}: {len(modules)}; large libraries: {', '.join(heavy) or 'none'}")


if __name__ == "__main__":
    main()
