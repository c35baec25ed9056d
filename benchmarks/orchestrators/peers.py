"""Who is measured, in which cases, and how."""

from pathlib import Path

from msgspec import Struct

FOLDER = Path(__file__).parent
TIMED = {"chain": 40, "fanout": 1000, "long": 10, "partitions": 365}
"""Cases that a script of each peer runs, and their full sizes."""

MEMORY, START = "memory", "start"
CASES = (*TIMED, MEMORY, START)
TITLES = {
    "chain": "chain of {size} trivial tasks",
    "fanout": "fan-out of {size} trivial tasks, and one that adds up",
    "long": "{size} tasks of fibonacci(33), two at a time",
    "partitions": "backfill of {size} days, two tasks each",
}
TASKS = {"chain": (1, 0), "fanout": (1, 1), "long": (1, 0), "partitions": (2, 0)}
"""How many tasks a case has: so many per unit of its size, and so many more."""


class Peer(Struct, frozen=True, kw_only=True):
    """One tool in one setting.

    ``environment`` names its requirements; without one it runs on the driver's own interpreter. ``repeats``
    says whether it is quick enough to be measured several times. ``cut`` holds the sizes of the short form.
    """

    name: str
    title: str
    script: str
    durability: str
    package: str
    imports: str
    program: tuple[str, ...]
    environment: str | None = None
    postgresql: bool = False
    repeats: bool = True
    cut: dict[str, int] = {}

    @property
    def limit(self) -> str:
        """The name of the limit on the same database."""
        return "bare-postgresql" if self.postgresql else "bare"

    @property
    def missing(self) -> bool:
        """Whether its script is not there."""
        return not (FOLDER / self.script).exists()

    def size(self, case: str, *, quick: bool) -> int:
        """Return how large a case is."""
        return self.cut.get(case, TIMED[case]) if quick else TIMED[case]


PYTHON = ("python", "-c", "pass")
BARE = Peer(
    name="bare",
    title="bare limit, SQLite",
    script="bare_cases.py",
    durability="synced",
    package="",
    imports="sqlite3",
    program=PYTHON,
    environment="bare",
)
BARE_POSTGRESQL = Peer(
    name="bare-postgresql",
    title="bare limit, PostgreSQL",
    script="bare_cases.py",
    durability="synced",
    package="psycopg",
    imports="psycopg",
    program=PYTHON,
    environment="bare",
    postgresql=True,
)
SIDESTAGE = Peer(
    name="sidestage",
    title="Sidestage, SQLite",
    script="sidestage_cases.py",
    durability="synced",
    package="sidestage",
    imports="sidestage",
    program=("python", "-m", "sidestage", "--help"),
)
SIDESTAGE_POSTGRESQL = Peer(
    name="sidestage-postgresql",
    title="Sidestage, PostgreSQL",
    script="sidestage_cases.py",
    durability="synced",
    package="sidestage",
    imports="sidestage",
    program=("python", "-m", "sidestage", "--help"),
    postgresql=True,
)
LUIGI = Peer(
    name="luigi",
    title="Luigi, local scheduler, files",
    script="luigi_cases.py",
    durability="not synced",
    package="luigi",
    imports="luigi",
    program=("luigi", "--help"),
    environment="luigi",
)
DBOS = Peer(
    name="dbos",
    title="DBOS, SQLite",
    script="dbos_cases.py",
    durability="synced",
    package="dbos",
    imports="dbos",
    program=("dbos", "--help"),
    environment="dbos",
)
DBOS_POSTGRESQL = Peer(
    name="dbos-postgresql",
    title="DBOS, PostgreSQL",
    script="dbos_cases.py",
    durability="synced",
    package="dbos",
    imports="dbos",
    program=("dbos", "--help"),
    environment="dbos",
    postgresql=True,
)
PREFECT = Peer(
    name="prefect",
    title="Prefect, server, SQLite",
    script="prefect_cases.py",
    durability="state at checkpoints (NORMAL), results not synced",
    package="prefect",
    imports="prefect",
    program=("prefect", "--help"),
    environment="prefect",
    repeats=False,
    cut={"partitions": 20},
)
PREFECT_POSTGRESQL = Peer(
    name="prefect-postgresql",
    title="Prefect, server, PostgreSQL",
    script="prefect_cases.py",
    durability="state synced, results not",
    package="prefect",
    imports="prefect",
    program=("prefect", "--help"),
    environment="prefect",
    postgresql=True,
    repeats=False,
    cut={"partitions": 20},
)
DAGSTER = Peer(
    name="dagster",
    title="Dagster, in-process executor, SQLite",
    script="dagster_cases.py",
    durability="state synced, outputs not",
    package="dagster",
    imports="dagster",
    program=("dagster", "--help"),
    environment="dagster",
    repeats=False,
    cut={"fanout": 200, "partitions": 20},
)
AIRFLOW = Peer(
    name="airflow",
    title="Airflow, LocalExecutor, PostgreSQL",
    script="airflow_cases.py",
    durability="synced",
    package="apache-airflow",
    imports="airflow.sdk",
    program=("airflow", "--help"),
    environment="airflow",
    postgresql=True,
    repeats=False,
    cut={"fanout": 100, "partitions": 30},
)
PEERS = (
    *(BARE, BARE_POSTGRESQL, SIDESTAGE, SIDESTAGE_POSTGRESQL, LUIGI, DBOS, DBOS_POSTGRESQL),
    *(PREFECT, PREFECT_POSTGRESQL, DAGSTER, AIRFLOW),
)
