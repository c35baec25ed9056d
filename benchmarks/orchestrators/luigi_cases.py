"""What Luigi costs: its local scheduler, and a file of its own for what each task made.

One worker, as Luigi then calls tasks in its own process; two for the long tasks, which it forks. Its worker
is told not to sleep between tasks, nor to look a second time for inputs it has just seen. A task is done
when its file is there: written beside and renamed, but not synced, so a power cut may take it away.

Prints one JSON object. Usage: python luigi_cases.py CASE --size N --folder DIR [--hold]
"""

import argparse
import json
import time
from datetime import date, timedelta
from pathlib import Path

import luigi

WORKERS = 2


def fibonacci(number: int) -> int:
    return number if number < 2 else fibonacci(number - 1) + fibonacci(number - 2)


class FileTask(luigi.Task):
    """A task whose result is one number in one file."""

    folder = luigi.Parameter(significant=False)

    def output(self) -> luigi.LocalTarget:
        """Return where the result lies."""
        return luigi.LocalTarget(f"{self.folder}/{self.task_id}")

    def write(self, number: int) -> None:
        """Publish the result."""
        with self.output().open("w") as file:
            file.write(str(number))

    def read(self) -> int:
        """Return the result."""
        with self.output().open("r") as file:
            return int(file.read())


class Link(FileTask):
    """One of a chain."""

    number = luigi.IntParameter()

    def requires(self) -> list[luigi.Task]:
        """Return what has to be done before."""
        return [Link(number=self.number - 1, folder=self.folder)] if self.number else []

    def run(self) -> None:
        """Make the result."""
        self.write(fibonacci(10) + sum(task.read() for task in self.requires()))


class Leaf(FileTask):
    """One of many that need nothing."""

    number = luigi.IntParameter()
    size = luigi.IntParameter(default=10)

    def run(self) -> None:
        """Make the result."""
        self.write(fibonacci(self.size))


class Gather(FileTask):
    """What needs all leaves."""

    leaves = luigi.IntParameter()
    size = luigi.IntParameter(default=10)

    def requires(self) -> list[luigi.Task]:
        """Return what has to be done before."""
        return [Leaf(number=number, size=self.size, folder=self.folder) for number in range(self.leaves)]

    def run(self) -> None:
        """Make the result."""
        self.write(sum(task.read() for task in self.requires()))


class Extract(FileTask):
    """The first task of a day."""

    day = luigi.DateParameter()

    def run(self) -> None:
        """Make the result."""
        self.write(fibonacci(10))


class Total(FileTask):
    """The second task of a day."""

    day = luigi.DateParameter()

    def requires(self) -> luigi.Task:
        """Return what has to be done before."""
        return Extract(day=self.day, folder=self.folder)

    def run(self) -> None:
        """Make the result."""
        self.write(self.requires().read() + fibonacci(10))


class Days(luigi.WrapperTask):
    """All days."""

    days = luigi.IntParameter()
    folder = luigi.Parameter(significant=False)

    def requires(self) -> list[luigi.Task]:
        """Return what has to be done before."""
        start = date(2025, 1, 1)
        return [Total(day=start + timedelta(day), folder=self.folder) for day in range(self.days)]


def build(task: luigi.Task, workers: int = 1) -> None:
    luigi.build([task], local_scheduler=True, workers=workers, log_level="ERROR")


def measure(case: str, folder: Path, size: int) -> float:
    """Return the seconds from asking for the last task to its being done."""
    warm = folder / "warm"
    build(Link(number=2, folder=str(warm)))
    target: luigi.Task
    match case:
        case "chain":
            target, expected = Link(number=size - 1, folder=str(folder)), 55 * size
        case "fanout":
            target, expected = Gather(leaves=size, folder=str(folder)), 55 * size
        case "long":
            target, expected = Gather(leaves=size, size=33, folder=str(folder)), 3_524_578 * size
        case _:
            target, expected = Days(days=size, folder=str(folder)), 110 * size
    started = time.perf_counter()
    build(target, WORKERS if case == "long" else 1)
    seconds = time.perf_counter() - started
    found = sum(task.read() for task in target.requires()) if case == "partitions" else target.read()
    assert found == expected, (found, expected)
    return seconds


def hold(folder: Path) -> None:
    """Say that all is up, and go on when that has been seen."""
    ready = folder / "ready"
    ready.touch()
    while ready.exists():
        time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("case", choices=["chain", "fanout", "long", "partitions"])
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--hold", action="store_true")
    options = parser.parse_args()
    settings = luigi.configuration.get_config()
    for name, value in (("wait_interval", "0.01"), ("wait_jitter", "0"), ("check_unfulfilled_deps", "false")):
        settings.set("worker", name, value)
    if options.hold:
        hold(options.folder)
    seconds = measure(options.case, options.folder, options.size)
    print(json.dumps({"case": options.case, "seconds": seconds, "note": ""}))


if __name__ == "__main__":
    main()
