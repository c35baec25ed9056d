"""strace, attached to one process: it makes system calls fail, or kills the process as it enters one."""

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ATTACH_SECONDS = 120.0


def why_not() -> str:
    """Return why processes cannot be traced here, or ""."""
    return "" if shutil.which("strace") else "needs strace (Debian: apt-get install strace)"


@dataclass
class Trace:
    """What was traced; complete once its process is over."""

    lines: list[str]


@contextlib.contextmanager
def traced(pid: int, calls: str, fault: str = "", *, only: str = "") -> Iterator[Trace]:
    """Trace system calls of a process and its threads; do ``fault`` to them, or to ``only`` some of them.

    ``fault`` is what strace's ``inject`` takes, such as ``error=EIO:when=3``. Raises RuntimeError if the
    process cannot be traced.
    """
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        log = Path(folder) / "trace"
        command = ["strace", "-f", "-y", "-s", "120", "-o", str(log), "-p", str(pid), "-e", f"trace={calls}"]
        if fault:
            command += ["-e", f"inject={only or calls}:{fault}"]
        trace = Trace([])
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
            try:
                _wait_until_attached(tracer)
                yield trace
            finally:
                tracer.terminate()
                tracer.communicate()
                trace.lines.extend(log.read_text(errors="replace").splitlines() if log.exists() else [])


def _wait_until_attached(tracer: "subprocess.Popen[str]") -> None:
    assert tracer.stderr is not None
    deadline = time.monotonic() + _ATTACH_SECONDS
    while time.monotonic() < deadline:
        line = tracer.stderr.readline()
        if "attached" in line:
            return
        if not line:
            break
    raise RuntimeError("strace could not attach to a process")
