"""Limits inside the worker: each turns too much into an exception, and is lifted afterwards."""

import errno
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from sidestage.policy.failure import classify
from sidestage.policy.limits import Limits
from sidestage.runtime.rlimits import LimitExceeded, attempt_limits

SOURCE = Path(__file__).parents[3] / "src"
KINDS = (resource.RLIMIT_CPU, resource.RLIMIT_NOFILE, resource.RLIMIT_DATA, resource.RLIMIT_CORE)
linux = pytest.mark.skipif(sys.platform != "linux", reason="the system counts other things")


def limits_now():
    return [resource.getrlimit(kind) for kind in KINDS]


def alone(code: str, **environment: str) -> str:
    """Run code in a process of its own, with the names that it needs; return what it printed."""
    names = """
    import os, time
    from sidestage.policy.failure import classify
    from sidestage.policy.limits import Limits
    from sidestage.runtime.rlimits import LimitExceeded, attempt_limits, reserved_bytes
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(names) + textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(SOURCE), **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_all_is_as_before_afterwards():
    before, handler = limits_now(), signal.getsignal(signal.SIGXCPU)
    with attempt_limits(Limits(memory="1 GB", cpu=5, time=5, files=100, temporary=1)):
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 100
        assert resource.getrlimit(resource.RLIMIT_CORE)[0] == 0
        assert resource.getrlimit(resource.RLIMIT_CPU)[0] >= 5
    assert limits_now() == before
    assert signal.getsignal(signal.SIGXCPU) == handler
    with pytest.raises(KeyError), attempt_limits(Limits(memory="1 GB", cpu=5, files=100)):
        raise KeyError
    assert limits_now() == before
    assert signal.getsignal(signal.SIGXCPU) == handler


def test_without_limits_only_core_files_are_off():
    before = limits_now()
    with attempt_limits(Limits()):
        assert limits_now()[:-1] == before[:-1]
        assert resource.getrlimit(resource.RLIMIT_CORE)[0] == 0
        with pytest.raises(MemoryError):
            raise MemoryError


def test_a_limit_above_the_systems_own_is_held_to_it():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with attempt_limits(Limits(files=hard + 1000)):
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)


def test_too_many_open_files():
    opened = []

    def open_for_ever():
        while True:
            opened.append(os.open(os.devnull, os.O_RDONLY))

    try:
        with (
            pytest.raises(LimitExceeded, match=r"more files than its limit of 64\.") as caught,
            attempt_limits(Limits(files=64)),
        ):
            open_for_ever()
    finally:
        for descriptor in opened:
            os.close(descriptor)
    assert len(opened) < 64
    assert classify(caught.value) == "resource"
    assert caught.value.hint
    assert isinstance(caught.value.__cause__, OSError)


def test_memory_that_the_system_refuses_is_the_limit_of_memory():
    for refusal in (MemoryError(), OSError(errno.ENOMEM, "no memory")):
        with (
            pytest.raises(LimitExceeded, match=r"more memory than its limit of 1 GB\.") as caught,
            attempt_limits(Limits(memory="1 GB")),
        ):
            raise refusal
        assert classify(caught.value) == "resource"
        with pytest.raises(type(refusal)) as bare, attempt_limits(Limits()):
            raise refusal
        assert classify(bare.value) == "resource"


def test_a_file_beyond_the_systems_limit_says_which_and_how_to_raise_it():
    said = alone("""
        import resource, tempfile
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        try:
            with attempt_limits(Limits()), tempfile.TemporaryFile() as file:
                file.write(bytes(300_000))
        except LimitExceeded as error:
            print(classify(error), error)
    """)
    assert said.startswith(
        "resource Wrote a file larger than the 200 kB that the system lets this process write."
    )
    assert said.endswith("ulimit -f")


def test_a_file_that_is_too_large_for_its_file_system_is_not_the_systems_limit():
    with pytest.raises(OSError, match="large") as caught, attempt_limits(Limits()):
        raise OSError(errno.EFBIG, "too large")
    assert classify(caught.value) == "resource"


def test_other_refusals_of_the_system_are_not_taken_for_a_limit():
    with pytest.raises(FileNotFoundError), attempt_limits(Limits(files=64)):
        raise FileNotFoundError(errno.ENOENT, "gone")
    with pytest.raises(OSError, match="many"), attempt_limits(Limits(memory="1 GB")):
        raise OSError(errno.EMFILE, "too many, but not by our limit")


def test_processor_time_is_an_exception_and_the_process_goes_on():
    said = alone("""
        while time.process_time() < 0.5:  # what was used before does not count
            pass
        before = time.process_time()
        try:
            with attempt_limits(Limits(cpu=1)):
                while True:
                    pass
        except LimitExceeded as error:
            print(error.message, classify(error))
            assert 0.9 < time.process_time() - before < 3
        while time.process_time() - before < 4:  # no signal comes any more
            pass
        print("alive")
    """)
    assert said == "Used more processor time than its limit of 1 s. resource\nalive"


def test_who_swallows_the_exception_gets_it_again():
    said = alone("""
        caught = 0
        try:
            with attempt_limits(Limits(cpu=1)):
                while True:
                    try:
                        while True:
                            pass
                    except LimitExceeded:
                        caught += 1
                        if caught == 2:
                            raise
        except LimitExceeded:
            print(caught)
    """)
    assert said == "2"


def test_processor_time_asks_for_the_main_thread():
    raised = []

    def elsewhere():
        try:
            with attempt_limits(Limits(cpu=1)):
                pass
        except RuntimeError as error:
            raised.append(str(error))

    before = limits_now()
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert raised == ["Limits of processor time can be set in the main thread only."]
    assert limits_now() == before


@linux
def test_memory_is_an_exception_and_the_process_goes_on():
    said = alone("""
        import numpy as np
        kept = bytearray(50_000_000)  # what a warm worker holds already counts
        try:
            with attempt_limits(Limits(memory="100 MB")):
                small = bytearray(40_000_000)
                large = np.empty(reserved_bytes() + 300_000_000, np.uint8)
        except LimitExceeded as error:
            print(error.message, classify(error), isinstance(error.__cause__, MemoryError))
        print(len(np.empty(2_000_000_000, np.uint8)))  # set aside, but no page of it is touched
    """)
    assert said == "Needed more memory than its limit of 100 MB. resource True\n2000000000"


WORK = """
    {0}
    with attempt_limits(Limits(memory="{memory}")):
        {1}
        import duckdb
        import polars as pl
        import pyarrow as pa
        import pyarrow.parquet as pq
        frame = pl.DataFrame({{"a": range(1_000_000)}}).with_columns(b=pl.col("a") % 1000)
        table = frame.to_arrow()
        pq.write_table(table, "{file}")
        with duckdb.connect(config={{"threads": 2}}) as duck:
            rows = duck.sql("SELECT b, sum(a) AS s FROM '{file}' GROUP BY b").arrow().read_all()
            assert rows.num_rows == 1000
        found = pl.scan_parquet("{file}").group_by("b").agg(pl.col("a").sum()).collect()
        print(found["a"].sum(), table.num_rows)
"""


@linux
@pytest.mark.parametrize("memory", ["1 GB", "512 MB"])
@pytest.mark.parametrize("loaded", ["before", "inside"])
def test_the_usual_libraries_work_within_a_usual_limit(tmp_path, memory, loaded):
    first = "import duckdb, polars, pyarrow.parquet" if loaded == "before" else "pass"
    code = WORK.format(first, "pass", memory=memory, file=tmp_path / "rows.parquet")
    assert alone(code, POLARS_MAX_THREADS="2", OMP_NUM_THREADS="2") == f"{sum(range(1_000_000))} 1000000"
