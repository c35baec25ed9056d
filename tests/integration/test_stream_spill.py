"""Streams that spill, in processes that are killed, and on disks that have no room."""

import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from tests.integration.test_store_processes import Process
from tests.unit.stream.places import Kept

from sidestage.stream.keys.spill import Spill
from sidestage.stream.settings import Settings
from sidestage.stream.stream import Stream

SECONDS = 300.0

PROGRAM = """
    import sys, threading, time
    from sidestage.stream import Checkpoint, Called, Settings, Stream
    from sidestage.stream.keys.spill import Spill

    folder, blocks = sys.argv[1], sys.argv[2] == "blocks"

    def work(item):
        if blocks and item[0] == 0:
            threading.Event().wait()
        return item

    def write(items):
        with open(f"{folder}/out", "a") as file:
            file.writelines(f"{key} {number}\\n" for key, number in items)

    items = [(n % 2 * (1 + n % 7), n) for n in range(20_000)]
    keyed = Stream(items).by_key(lambda item: item[0], into=8, spill=Spill(f"{folder}/spill", memory=0))
    engine = keyed.map(work, workers=2).to(Called(write)).engine(
        settings=Settings(chunk=64, buffer=256, commit_every=0.0), checkpoint=Checkpoint(f"{folder}/checkpoint")
    )
    engine.start()
    store = next(iter(engine._assembly.stores.values()))
    while blocks and store.on_disk < 100_000:
        time.sleep(0.01)
    print("spilled", flush=True)
    engine.join()
"""


def open_files(pid: int, folder: Path) -> list[int]:
    """Return the sizes of the files without a name that a process has open there."""
    found = []
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since they were listed
            target = str(each.readlink())
            if target.startswith(str(folder)) and target.endswith("(deleted)"):
                found.append(each.stat().st_size)
    return found


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks at open files through /proc")
def test_what_a_killed_process_spilled_is_gone_with_it_and_comes_again(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    command = [sys.executable, str(program), str(tmp_path)]
    with subprocess.Popen([*command, "blocks"], stdout=subprocess.PIPE, text=True) as killed:
        try:
            assert killed.stdout is not None
            assert killed.stdout.readline() == "spilled\n"
            assert sum(open_files(killed.pid, tmp_path / "spill")) >= 100_000
        finally:
            killed.send_signal(signal.SIGKILL)
    assert list((tmp_path / "spill").iterdir()) == []
    subprocess.run([*command, "ends"], check=True, capture_output=True, timeout=SECONDS)
    assert list((tmp_path / "spill").iterdir()) == []
    lines = (tmp_path / "out").read_text().splitlines()
    numbers = {int(line.split()[1]) for line in lines}
    assert numbers == set(range(20_000)), "what was spilled was not acknowledged, so it came again"


@pytest.mark.skipif(sys.platform == "win32", reason="forks and limits of files")
def test_on_a_disk_without_room_the_stream_waits_and_loses_nothing(tmp_path: Path) -> None:
    def limited(pipe: int) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        opened, full, events = threading.Event(), threading.Event(), list[str]()

        def listen(event: object) -> None:
            events.append(type(event).__name__ + " " + getattr(event, "why", ""))
            if "SpillFull" in events[-1]:
                full.set()

        def work(item: tuple[int, int]) -> tuple[int, int]:
            if item[0] == 0:
                opened.wait(SECONDS)
            return item

        items = [(n % 2 * (1 + n % 7), n) for n in range(8000)]
        sink = Kept()
        keyed = Stream(items).by_key(lambda item: item[0], into=8, spill=Spill(tmp_path, memory=0))
        flow = keyed.map(work, workers=2).to(sink)
        engine = flow.engine(settings=Settings(chunk=64, buffer=256), listener=listen)
        engine.start()
        found = full.wait(SECONDS)
        opened.set()
        engine.join()
        told = next((event for event in events if "SpillFull" in event), "")
        os.write(pipe, f"{found} {sorted(sink.items) == sorted(items)} {told}\n".encode())

    code, said = Process(limited).wait()
    assert code == 0
    assert said == [f"True True SpillFull {tmp_path}: {os.strerror(27)}"]
    assert list(tmp_path.iterdir()) == []
