"""Where attempts run: warm, fresh and virtual-environment processes, and the wall around a candidate's code."""

import json
import os
import time
import zipfile
from collections import Counter

import pytest
from chain import records

from sidestage.run.starter import MOST_ATTEMPTS
from sidestage.runtime.sandbox import available

PIDS = """
import os, tempfile
import pyarrow as pa
from sidestage import Dataset, Partition, Pipeline, Retry, Static, Terms, Value, current_attempt

parts = Static(["a", "b", "c", "d"])
pipeline = Pipeline("small", retry=Retry(times=2, delay=0.01, longest=0.02))

def seen():
    here = tempfile.gettempdir()
    before = os.listdir(here)
    with open(os.path.join(here, "left"), "w") as file:
        file.write("x")
    return {"pid": os.getpid(), "temporary": here, "before": before, "attempt": str(current_attempt().temporary)}

@pipeline.task(writes=Value("warm", parts))
def warm(part: Partition) -> dict:
    return seen()

@pipeline.task(writes=Value("fresh", parts), terms=Terms(runtime="fresh"))
def fresh(part: Partition) -> dict:
    return seen()
"""


def values(project, dataset, environment="production"):
    """Return the values that an environment shows, by partition, read from the catalog."""

    def look(store):
        pointers = store.pointers(environment)
        versions = store.versions(pointers.values())
        return {
            partition: json.loads(versions[shown].stored.value)
            for (name, partition), shown in pointers.items()
            if name == dataset
        }

    return records(project, look)


def test_fresh_processes_are_new_for_each_attempt_and_warm_ones_are_used_again(new_project):
    project = new_project(PIDS, settings="[run]\nworkers = 1\n")
    project("run")
    warm, fresh = values(project, "warm"), values(project, "fresh")
    assert len({each["pid"] for each in warm.values()}) == 1
    assert len({each["pid"] for each in fresh.values()}) == 4
    for each in (*warm.values(), *fresh.values()):
        assert each["before"] == [], "what the attempt before left is gone"
        assert each["temporary"] == each["attempt"]
        assert each["temporary"].startswith(f"{project.root}/.sidestage/scratch/")
    assert len({each["temporary"] for each in fresh.values()}) == 4
    assert list((project.root / ".sidestage" / "scratch").iterdir()) == []
    assert {a.isolation for a in records(project, lambda store: store.attempts(1))} == {"process"}


RECYCLED = """
import os
from sidestage import Partition, Pipeline, Static, Value

pipeline = Pipeline("small")
parts = Static([f"p{number}" for number in range(NUMBER)])

@pipeline.task(writes=Value("worker", parts))
def worker(part: Partition) -> int:
    return os.getpid()
"""


def test_a_warm_process_is_replaced_after_its_last_attempt(new_project):
    code = RECYCLED.replace("NUMBER", str(MOST_ATTEMPTS + 3))
    project = new_project(code, settings="[run]\nworkers = 1\n")
    project("run")
    counted = Counter(values(project, "worker").values())
    assert sorted(counted.values()) == [3, MOST_ATTEMPTS]


def test_tiny_attempts_that_are_sent_ahead_each_keep_their_own_log(new_project):
    project = new_project(
        """
        import os, subprocess
        from sidestage import Partition, Pipeline, Static, Value

        pipeline = Pipeline("small")
        parts = Static([f"p{number}" for number in range(300)])

        @pipeline.task(writes=Value("value", parts))
        def value(part: Partition) -> str:
            print("first of", part.key)
            os.write(2, f"last of {part.key}".encode())
            return part.key
        """
    )
    project("run")
    logs = {log.name: log.read_text() for log in project.root.rglob("logs/run-1/*.log")}
    assert len(logs) == 300
    for number in range(300):
        assert logs[f"small.value@p{number}.1.log"] == f"first of p{number}\nlast of p{number}"


KEYS = """
from sidestage import Partition, Pipeline, Retry, Static, Value, current_attempt

parts = Static(["a", "b"])
pipeline = Pipeline("small", retry=Retry(times=2, delay=0.01, longest=0.02))

@pipeline.task(writes=Value("key", parts))
def key(part: Partition) -> str:
    attempt = current_attempt()
    with open("{LEDGER}", "a") as file:
        print(attempt.run, attempt.step, attempt.number, attempt.idempotency_key, file=file)
    if part.key == "a" and attempt.number < 3:
        raise ConnectionError("once more")
    return attempt.idempotency_key
"""


def test_the_idempotency_key_is_the_step_s_of_this_run(new_project):
    project = new_project(KEYS)
    project("run")
    project("run", "--recompute", "--reason", "again", "--partitions", "b")
    lines = sorted(line.split() for line in project.done())
    assert [(run, step, number) for run, step, number, _ in lines] == [
        ("1", "small.key@a", "1"),
        ("1", "small.key@a", "2"),
        ("1", "small.key@a", "3"),
        ("1", "small.key@b", "1"),
        ("2", "small.key@b", "1"),
    ]
    keys = [key for *_, key in lines]
    assert keys[0] == keys[1] == keys[2]
    assert len(set(keys)) == 3


@pytest.fixture
def tools(tmp_path):
    """Two versions of a package: the one beside the project's code as a folder, the other as a wheel."""
    ours = tmp_path / "ours"
    ours.mkdir()
    (ours / "smalltool.py").write_text("version = 1\n")
    source = tmp_path / "source"
    source.mkdir()
    return ours, wheel(source, "smalltool", "2", "version = 2\n")


def wheel(folder, name, version, code):
    """Make a package of one module; return the line of a requirements file that means it."""
    information = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": code,
        f"{information}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{information}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in (*files, f"{information}/RECORD"))
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inner, text in {**files, f"{information}/RECORD": record}.items():
            archive.writestr(inner, text)
    return f"{name} @ {path.as_uri()}\n"


VENV = """
import sys
from sidestage import Partition, Pipeline, Retry, Static, Terms, Value
import smalltool

parts = Static(["a", "b"])
pipeline = Pipeline("small", retry=Retry(times=0))

@pipeline.task(writes=Value("ours", parts))
def ours(part: Partition) -> list:
    return [smalltool.version, sys.prefix]

@pipeline.task(writes=Value("theirs", parts), terms=Terms(runtime="venv:requirements.txt"))
def theirs(part: Partition) -> list:
    return [smalltool.version + 0, sys.prefix]
"""
THEIRS = "    return [smalltool.version + 0, sys.prefix]"


def test_an_environment_of_its_own_is_made_once_for_a_task_that_asks_for_it(new_project, tools):
    folder, line = tools
    project = new_project(VENV)
    (project.root / "requirements.txt").write_text(line)
    path = {"PYTHONPATH": os.pathsep.join((project.sidestage.environment["PYTHONPATH"], str(folder)))}
    project("run", env=path)
    ours, theirs = values(project, "ours"), values(project, "theirs")
    assert {each[0] for each in ours.values()} == {1}
    assert {each[0] for each in theirs.values()} == {2}
    environments = project.root / ".sidestage" / "environments"
    (made,) = (each for each in environments.iterdir() if each.is_dir())
    assert {each[1] for each in theirs.values()} == {str(made)}
    before = made.stat().st_ino, (made / "bin" / "python").lstat().st_mtime_ns
    # Without an index, and without uv's cache, nothing could be built.
    nothing = {"UV_OFFLINE": "1", "UV_CACHE_DIR": str(project.root / "no-cache"), "UV_NO_CACHE": "1"}
    project("run", "--recompute", "--reason", "again", env={**path, **nothing})
    assert (made.stat().st_ino, (made / "bin" / "python").lstat().st_mtime_ns) == before
    assert [each for each in environments.iterdir() if each.is_dir()] == [made]


def test_an_environment_goes_when_no_task_has_used_it_for_long_and_never_while_one_runs_in_it(
    new_project, tools
):
    folder, line = tools
    project = new_project(VENV)
    (project.root / "requirements.txt").write_text(line)
    wait = (
        "    open('{LEDGER}', 'a').close()\n    while not os.path.exists('{LEDGER}.go'): time.sleep(0.01)\n"
    )
    wait = wait.replace("{LEDGER}", str(project.ledger))
    project.edit("import sys\n", "import os, sys, time\n")
    project.edit(THEIRS, wait + THEIRS)
    path = {"PYTHONPATH": os.pathsep.join((project.sidestage.environment["PYTHONPATH"], str(folder)))}
    running = project.start("run", env=path)
    until(project.ledger.exists)
    now = ("clean", "--yes", "--keep-days", "0", "--grace", "0", "--json")
    assert project(*now).json["environments"] == []
    project.ledger.with_name(f"{project.ledger.name}.go").touch()
    _, error = running.communicate(timeout=180)
    assert running.returncode == 0, error
    (made,) = (each for each in (project.root / ".sidestage" / "environments").iterdir() if each.is_dir())
    assert project("clean", "--yes", "--json").json["environments"] == [], "used less than 30 days ago"
    months_ago = time.time() - 60 * 86_400
    os.utime(made, (months_ago, months_ago))
    assert "1 virtual environments" in project("clean").out
    assert project("clean", "--yes", "--json").json["environments"] == [made.name]
    assert not made.exists()
    project("run", "--recompute", "--reason", "it is made again", env=path)
    assert made.exists()


def until(true):
    deadline = time.monotonic() + 180
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("sandbox", ["landlock", "strict"])
def test_a_candidate_has_its_environment_behind_the_wall_and_cannot_change_it(new_project, tools, sandbox):
    folder, line = tools
    project = new_project(VENV, settings=f'[run]\nworkers = 2\n[stage]\nsandbox = "{sandbox}"\n')
    (project.root / "requirements.txt").write_text(line)
    path = {"PYTHONPATH": os.pathsep.join((project.sidestage.environment["PYTHONPATH"], str(folder)))}
    project("run", env=path)
    # So that the packages themselves are read, not what Python made of them before.
    path["PYTHONPYCACHEPREFIX"] = str(project.root / "no-bytecode")
    project.edit(THEIRS, f"    spoil(smalltool.__file__)\n{THEIRS.replace('+ 0', '+ 1')}")
    project.edit("parts =", "def spoil(file):\n    open(file, 'a').write('spoilt')\n\nparts =")
    failed = project("stage", "--code", ".", "--name", "bad", env=path, expect=4)
    assert "PermissionError" in failed.err or "Read-only file system" in failed.err
    project.edit("    spoil(smalltool.__file__)\n", "")
    project("stage", "--code", ".", "--name", "good", env=path)
    assert {each[0] for each in values(project, "theirs", "good").values()} == {3}
    assert {each[0] for each in values(project, "theirs").values()} == {2}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("this is no requirement\n", "uv could not make the environment"),
        ("-r other.txt\n", "refers to something outside of it"),
        (None, "requirements.txt"),
    ],
)
def test_requirements_that_cannot_be_met_give_a_clear_error(new_project, tools, text, said):
    project = new_project(VENV)
    if text is not None:
        (project.root / "requirements.txt").write_text(text)
    path = os.pathsep.join((project.sidestage.environment["PYTHONPATH"], str(tools[0])))
    failed = project("run", env={"PYTHONPATH": path}, expect=2)
    assert said in failed.err
    assert "Traceback" not in failed.err
    assert list((project.root / ".sidestage" / "scratch").iterdir()) == []
    environments = project.root / ".sidestage" / "environments"
    assert not [each for each in environments.glob("*") if each.is_dir()]


WALLED = """
import os, subprocess, sys, tempfile
from pathlib import Path
import pyarrow as pa
from sidestage import Dataset, Partition, Pipeline, Retry, Static

CANDIDATE = False
root = Path("{LEDGER}").parent / "small"
state = root / ".sidestage"

def first_file(folder, pattern):
    return next(path for path in sorted(folder.rglob(pattern)) if "sidestage" not in path.relative_to(folder).parts)

def overwrite(path):
    os.chmod(path, 0o644)
    with open(path, "r+b") as file:
        file.write(b"spoilt")

def by_another_process():
    code = f"open({str(root / 'sidestage.toml')!r}, 'a').write('x')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode, "it could"
    assert "PermissionError" in done.stderr or "Read-only" in done.stderr, done.stderr
    raise PermissionError("as it should be")

TRIES = {
    "overwrite a version": lambda: overwrite(first_file(state / "lake", "*.parquet")),
    "remove a version": lambda: first_file(state / "lake", "*.parquet").unlink(),
    "add to the lake": lambda: (state / "lake" / "another").mkdir(),
    "add to production": lambda: (state / "lake" / "other" / "foreign.parquet").write_bytes(b"x"),
    "read the catalog": lambda: (state / "catalog.db").read_bytes(),
    "write the catalog": lambda: overwrite(state / "catalog.db"),
    "change the code": lambda: (root / "src" / "small" / "pipeline.py").write_text("spoilt"),
    "change its own code": lambda: Path(__file__).write_text("spoilt"),
    "write to home": lambda: (Path(os.environ["HOME"]) / "spoilt").write_text("spoilt"),
    "write to tmp": lambda: (root.parent / "spoilt").write_text("spoilt"),
    "read logs": lambda: next((state / "logs").rglob("*.log")).read_text(),
    "start another process": by_another_process,
}
parts = Static(["fine", *TRIES])
source = Dataset("source", parts)
other = Dataset("other", parts)
pipeline = Pipeline("small", retry=Retry(times=0))

@pipeline.task(writes=source)
def load(part: Partition) -> pa.Table:
    print("the logs folder exists from the first print on")
    return pa.table({"n": [1, 2, 3]})

@pipeline.task(reads=source, writes=other)
def make(part: Partition, rows: pa.Table) -> pa.Table:
    if CANDIDATE and part.key in TRIES:
        TRIES[part.key]()
        raise AssertionError("nothing kept it from it")
    with tempfile.NamedTemporaryFile("w+") as file:
        file.write("temporary files may be written")
    doubled = [2 * n if CANDIDATE else n for n in rows["n"].to_pylist()]
    return pa.table({"n": doubled})
"""


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}


def walled(new_project, sandbox):
    project = new_project(WALLED, settings=f'[run]\nworkers = 2\n[stage]\nsandbox = "{sandbox}"\n')
    home = project.root.parent / "home"
    home.mkdir()
    project("run")
    project.edit("CANDIDATE = False", "CANDIDATE = True")
    return project, home


@pytest.mark.parametrize("sandbox", ["auto", "landlock", "strict"])
def test_a_candidate_can_write_nothing_but_its_own_output(new_project, sandbox):
    level = {"auto": "landlock"}.get(sandbox, sandbox)
    assert level in available(), "this test must not be left out: Landlock, and bwrap are needed"
    project, home = walled(new_project, sandbox)
    kept = contents(project.root / ".sidestage" / "lake"), contents(project.root / "src")
    digests = project.digests()
    project("stage", "--code", ".", "--name", "bad", env={"HOME": str(home)}, expect=4)
    run = max(record.id for record in records(project, lambda store: store.runs()))
    failures = project("status", "--run", str(run), "--json").json["failures"]
    assert len(failures) == 12
    for failed in failures:
        refused = "PermissionError" in failed["message"] or "Read-only" in failed["message"]
        hidden = sandbox == "strict" and (
            "FileNotFoundError" in failed["message"] or "StopIteration" in failed["message"]
        )
        assert refused or hidden, failed
        if "PermissionError" in failed["message"]:
            assert failed["failure_class"] == "authentication"
    steps = records(project, lambda store: store.steps(run))
    assert [step.partition for step in steps if step.state == "done"] == ["fine"]
    after = contents(project.root / ".sidestage" / "lake")
    assert kept[0].items() <= after.items()
    assert contents(project.root / "src") == kept[1]
    assert list(home.iterdir()) == []
    assert not (project.root.parent / "spoilt").exists()
    assert project.digests() == digests
    attempts = records(project, lambda store: store.attempts(run))
    (isolation,) = {attempt.isolation for attempt in attempts}
    assert isolation == "bubblewrap" if sandbox == "strict" else isolation.startswith("landlock-")


def test_without_a_wall_the_attempt_says_so(new_project):
    project, home = walled(new_project, "none")
    project("stage", "--code", ".", "--name", "trusted", "--partitions", "fine", env={"HOME": str(home)})
    attempts = records(project, lambda store: store.attempts(2))
    assert {attempt.isolation for attempt in attempts} == {"process"}


def test_what_was_written_behind_a_wall_is_promoted_as_it_is_and_cleaned_up_like_all_else(new_project):
    project, home = walled(new_project, "landlock")
    production = project.digests()
    project.edit("and part.key in TRIES", "and part.key in ()")
    project("stage", "--code", ".", "--name", "better", env={"HOME": str(home)})
    lake = project.root / ".sidestage" / "lake"
    area = lake / "sidestage" / "run-2" / "other"
    staged = contents(area)
    assert len(staged) == 13
    project("compare", "better")
    project("promote", "better")
    assert project.digests() != production
    look = "select sum(n) n from production.other"
    assert project("sql", look, "--json").json == [{"n": 13 * 12}]
    clean = ("clean", "--grace", "0", "--yes", "--json")
    assert project(*clean).json["orphans"] == []
    assert contents(area) == staged, "production shows them"
    (area / ".fine~0123456789abcdef01234567.parquet.tmp").touch()
    (lake / "sidestage" / "run-77" / "deep" / "empty").mkdir(parents=True)
    assert len(project(*clean).json["orphans"]) == 1
    assert [folder.name for folder in (lake / "sidestage").glob("run-*")] == ["run-2"]
    project("run", "--recompute", "--reason", "reads its inputs, and replaces what was staged")
    assert project("sql", look, "--json").json == [{"n": 13 * 12}]
    assert contents(area) == staged, "a rollback may want them"
