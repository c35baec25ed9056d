"""What Sidestage costs: warm worker processes, state and results synced before dependants start.

A small project is written, a first run warms its processes, and then one run is timed: from asking for a
plan to the end of the run in the catalog. Every task runs in a process apart from the one that records it.

Prints one JSON object. Usage: python sidestage_cases.py CASE --size N --folder DIR [--hold] [--database URL]
"""

import argparse
import json
import textwrap
import time
from pathlib import Path

from sidestage import Project, Selection
from sidestage.plan.production import plan_production
from sidestage.project.execution import Execution
from sidestage.project.production import ensure_production
from sidestage.project.workshop import load, open_crew
from sidestage.project.worlds import read_world
from sidestage.run.crews import Home

WORKERS = 2

HEAD = """
from sidestage import Daily, Dataset, Pipeline, Static, Value, all_of
import msgspec


def fibonacci(number):
    return number if number < 2 else fibonacci(number - 1) + fibonacci(number - 2)


warm = Pipeline("warm")
warm_parts = Static(["a", "b", "c", "d"])
warm_value = Value("warm", warm_parts)


@warm.task(writes=warm_value)
def warming(part):
    return fibonacci(20)


measured = Pipeline("measured")
"""

CHAIN = """
previous = None
for number in range({size}):
    value = Value(f"link-{number}")

    def link(part, *before):
        return fibonacci(10) + sum(before)

    def first(part):
        return fibonacci(10)

    def next_one(part, before):
        return fibonacci(10) + before

    function, reads = (first, ()) if previous is None else (next_one, previous)
    measured.task(writes=value, reads=reads, name=f"link_{number}")(function)
    previous = value
"""

GATHER = """
leaves = Value("leaves", Static([f"n{{number}}" for number in range({size})]))
total = Value("total")


@measured.task(writes=leaves)
def leaf(part):
    return fibonacci({weight})


@measured.task(writes=total, reads=all_of(leaves))
def gather(part, numbers):
    return sum(numbers.values())
"""

DAYS = """
days = Daily(start="2024-01-01", end="{end}")
extracted, total = Value("extracted", days), Value("total", days)


@measured.task(writes=extracted)
def extract(day):
    return fibonacci(10)


@measured.task(writes=total, reads=extracted)
def add_up(day, number):
    return number + fibonacci(10)
"""

ROWS = """
days = Daily(start="2024-01-01", end="{end}")


class Number(msgspec.Struct):
    number: int


extracted, total = Dataset("extracted", days), Dataset("total", days)


@measured.task(writes=extracted)
def extract(day) -> list[Number]:
    return [Number(fibonacci(10))]


@measured.task(writes=total, reads=extracted)
def add_up(day, numbers: list[Number]) -> list[Number]:
    return [Number(sum(each.number for each in numbers) + fibonacci(10))]
"""


def source(case: str, size: int) -> str:
    """Return the module of the project that a case needs."""
    from datetime import date, timedelta

    end = date(2024, 1, 1) + timedelta(days=size - 1)
    match case:
        case "chain":
            body = CHAIN.replace("{size}", str(size))
        case "fanout" | "long":
            body = GATHER.format(size=size, weight=33 if case == "long" else 10)
        case "partitions":
            body = DAYS.format(end=end)
        case _:
            body = ROWS.format(end=end)
    return textwrap.dedent(HEAD) + textwrap.dedent(body)


def new_project(folder: Path, case: str, size: int, database: str | None) -> Path:
    root = folder / "project"
    (root / "src").mkdir(parents=True)
    store = f'[state]\nstore = "{database}"\n' if database else ""
    (root / "sidestage.toml").write_text(f'[project]\nname = "bench"\npipelines = ["bench"]\n{store}')
    (root / "src" / "bench.py").write_text(source(case, size))
    return root


def measure(folder: Path, case: str, size: int, database: str | None, *, hold: bool) -> tuple[float, int]:
    """Return the seconds from asking for a plan to the end of the run, and the number of steps."""
    with (
        Project(new_project(folder, case, size, database)) as project,
        open_crew(project.layout, project.file, project.clock, WORKERS) as crew,
    ):
        home = Home(str(project.layout.root))
        manifest = load(crew, home)
        ensure_production(project.store, project.clock)
        execution = Execution(
            project.store, project.layout, project.file, project.clock, project.listener, "benchmark"
        )

        def run(pipeline: str) -> tuple[float, int]:
            started = time.perf_counter()
            world = read_world(project.store, manifest, None, "tree", project.clock.now())
            plan = plan_production(world, Selection(pipeline))
            run_id = execution.begin(plan, manifest, "benchmark", crew)
            summary = execution.execute(run_id, plan, manifest, home, crew)
            seconds = time.perf_counter() - started
            assert (summary.state, summary.published) == ("done", len(plan.steps)), summary
            return seconds, len(plan.steps)

        run("warm")
        if hold:
            ready = folder / "ready"
            ready.touch()
            while ready.exists():
                time.sleep(0.05)
        return run("measured")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("case", choices=["chain", "fanout", "long", "partitions", "rows"])
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--hold", action="store_true")
    parser.add_argument("--database")
    options = parser.parse_args()
    seconds, steps = measure(options.folder, options.case, options.size, options.database, hold=options.hold)
    print(json.dumps({"case": options.case, "seconds": seconds, "note": f"{steps} steps"}))


if __name__ == "__main__":
    main()
