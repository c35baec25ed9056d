"""What Airflow costs: the LocalExecutor with PostgreSQL, API server, scheduler and Dag processor beside.

Tuned for many short tasks: the scheduler sleeps a tenth of its default when there is nothing to do, looks at
more tasks and runs per turn, and eight tasks run at once on two cores (two of the long ones). Without the
triggerer, which nothing here needs. A run is triggered over the REST API and watched there; a day is a run of
a backfill. What tasks return is kept in PostgreSQL, so it survives a power cut.

This file is also the Dag file: Airflow imports it and finds the Dags that the environment asks for.

Prints one JSON object.
Usage: python airflow_cases.py CASE --size N --folder DIR --database URL [--hold]
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

AT_ONCE = 8
WORKERS = 2
POLL_SECONDS = 0.1
START_SECONDS = 180.0
FIRST_DAY = datetime(2025, 1, 1, tzinfo=UTC)
CASE, SIZE = "BENCHMARK_CASE", "BENCHMARK_SIZE"
"""Variables of the environment that tell Airflow's processes which Dag this file holds."""


def fibonacci(number: int) -> int:
    return number if number < 2 else fibonacci(number - 1) + fibonacci(number - 2)


def declare(case: str, size: int) -> Any:
    """Return the Dag of a case; it must be seen by Airflow as a global of this file."""
    from airflow.sdk import dag, task

    schedule = "@daily" if case == "partitions" else None
    at_once = WORKERS if case == "long" else AT_ONCE

    @task
    def add(before: int, number: int = 10) -> int:
        return before + fibonacci(number)

    @task
    def total(found: list[int]) -> int:
        return sum(found)

    @dag(
        dag_id=case,
        schedule=schedule,
        start_date=FIRST_DAY,
        end_date=FIRST_DAY + timedelta(size),
        catchup=False,
        max_active_tasks=at_once,
        max_active_runs=AT_ONCE,
    )
    def declared() -> None:
        match case:
            case "fanout":
                total(add.expand(before=[0] * size))
            case "long":
                total(add.partial(number=33).expand(before=[0] * size))
            case _:
                found: Any = 0
                for _ in range(2 if case == "partitions" else size):
                    found = add(found)

    return declared()


class Api:
    """The REST API of a server on this machine."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self.token = ""

    def call(self, path: str, body: dict[str, Any] | None = None, *, method: str = "GET") -> Any:
        """Return the answer of one call."""
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def wait(self, path: str, name: str, values: set[str], within: float) -> Any:
        """Return the first answer in which a field has one of some values."""
        deadline = time.monotonic() + within
        while True:
            try:
                answer = self.call(path)
            except OSError:  # not up yet, or the Dag not parsed yet
                answer = {}
            if str(answer.get(name)) in values:
                return answer
            if time.monotonic() > deadline:
                raise TimeoutError(f"{path} did not answer with {name} in {values}: {answer}")
            time.sleep(POLL_SECONDS)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def configure(home: Path, database: str, port: int) -> dict[str, str]:
    """Return the environment of Airflow's processes."""
    settings: dict[str, dict[str, object]] = {
        "core": {
            "executor": "LocalExecutor",
            "dags_folder": home / "dags",
            "load_examples": False,
            "parallelism": AT_ONCE,
            "dags_are_paused_at_creation": False,
            "simple_auth_manager_all_admins": True,
            "execution_api_server_url": f"http://127.0.0.1:{port}/execution/",
        },
        "database": {"sql_alchemy_conn": database.replace("postgresql://", "postgresql+psycopg2://")},
        "api": {"host": "127.0.0.1", "port": port, "secret_key": "a benchmark's"},
        "api_auth": {"jwt_secret": "a benchmark's secret, which has to be sixty-four bytes long or so" * 2},
        "scheduler": {
            "scheduler_idle_sleep_time": 0.1,
            "max_tis_per_query": 64,
            "max_dagruns_to_create_per_loop": 50,
            "max_dagruns_per_loop_to_schedule": 50,
            "enable_health_check": False,
        },
        "logging": {"logging_level": "WARNING"},
    }
    named = {
        f"AIRFLOW__{section.upper()}__{name.upper()}": str(value)
        for section, values in settings.items()
        for name, value in values.items()
    }
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, **named, "AIRFLOW_HOME": str(home), "PATH": path}


@contextmanager
def airflow(options: argparse.Namespace) -> Iterator[Api]:
    """Run Airflow until it knows the Dag."""
    home = options.folder / "airflow"
    (home / "dags").mkdir(parents=True)
    shutil.copy(__file__, home / "dags" / "benchmark.py")
    port = free_port()
    environment = {**configure(home, options.database, port), CASE: options.case, SIZE: str(options.size)}
    program = [sys.executable, "-m", "airflow"]
    processes: list[subprocess.Popen[bytes]] = []
    with (options.folder / "airflow.log").open("wb") as log:
        how: dict[str, Any] = {"env": environment, "stdout": log, "stderr": log, "cwd": home}
        subprocess.run([*program, "db", "migrate"], check=True, **how)
        try:
            names = ("api-server", "scheduler", "dag-processor")
            processes += [subprocess.Popen([*program, name], **how) for name in names]
            api = Api(port)
            api.wait("/api/v2/version", "version", {version()}, START_SECONDS)
            api.token = api.call("/auth/token", method="GET")["access_token"]
            for dag in ("warm", options.case):
                api.wait(f"/api/v2/dags/{dag}", "is_paused", {"False"}, START_SECONDS)
            yield api
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(60)


def version() -> str:
    from importlib.metadata import version as installed

    return installed("apache-airflow-core")


def trigger(api: Api, dag: str, within: float) -> float:
    """Return the seconds from triggering a run to its end."""
    started = time.perf_counter()
    run = api.call(f"/api/v2/dags/{dag}/dagRuns", {"logical_date": None}, method="POST")["dag_run_id"]
    ended = api.wait(f"/api/v2/dags/{dag}/dagRuns/{run}", "state", {"success", "failed"}, within)
    assert ended["state"] == "success", ended
    return time.perf_counter() - started


def backfill(api: Api, size: int, within: float) -> float:
    """Return the seconds from asking for a backfill to the end of its last run."""
    started = time.perf_counter()
    last = FIRST_DAY + timedelta(size - 1)
    body = {"dag_id": "partitions", "from_date": FIRST_DAY.isoformat(), "to_date": last.isoformat()}
    api.call("/api/v2/backfills", {**body, "max_active_runs": AT_ONCE}, method="POST")
    done = "/api/v2/dags/partitions/dagRuns?state=success&limit=1&run_type=backfill"
    api.wait(done, "total_entries", {str(size)}, within)
    return time.perf_counter() - started


def check_results(api: Api, options: argparse.Namespace) -> None:
    """Look at what the last task returned."""
    task = "total" if options.case in {"fanout", "long"} else f"add__{options.size - 1}"
    expected = {"long": 3_524_578}.get(options.case, 55) * options.size
    run = api.call(f"/api/v2/dags/{options.case}/dagRuns?limit=1")["dag_runs"][0]["dag_run_id"]
    path = f"/api/v2/dags/{options.case}/dagRuns/{run}/taskInstances/{task}/xcomEntries/return_value"
    found = api.call(path)["value"]
    assert int(found) == expected, (found, expected)


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
    parser.add_argument("--database", required=True)
    parser.add_argument("--hold", action="store_true")
    parser.add_argument("--within", type=float, default=3600.0, help="give up after so many seconds")
    options = parser.parse_args()
    with airflow(options) as api:
        if options.hold:
            hold(options.folder)
        trigger(api, "warm", START_SECONDS)
        if options.case == "partitions":
            seconds = backfill(api, options.size, options.within)
        else:
            seconds = trigger(api, options.case, options.within)
            check_results(api, options)
    print(json.dumps({"case": options.case, "seconds": seconds, "note": ""}))


if __name__ == "__main__":
    main()
elif CASE in os.environ:
    warm = declare("warm", 2)
    benchmark = declare(os.environ[CASE], int(os.environ[SIZE]))
