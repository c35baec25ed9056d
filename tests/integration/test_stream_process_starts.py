"""How processes of stages are started: from a server that has loaded Sidestage, unless somebody chose otherwise."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import multiprocessing
import sys

def is_loaded(_number):
    return WAS_LOADED

WAS_LOADED = "sidestage.stream.workers.processes" in sys.modules  # when a process imports this, before it does its work

if __name__ == "__main__":
    {chosen}
    from sidestage.stream import Stream
    print(list(Stream([1]).map(is_loaded, on="process")))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no server starts processes there")
@pytest.mark.parametrize(
    ("chosen", "loaded"), [("pass", True), ('multiprocessing.set_forkserver_preload(["json"])', False)]
)
def test_processes_come_from_a_server_that_has_loaded_it(
    tmp_path: Path, chosen: str, *, loaded: bool
) -> None:
    (tmp_path / "program.py").write_text(PROGRAM.format(chosen=chosen))
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=180
    )
    assert done.stdout == f"[{loaded}]\n"
