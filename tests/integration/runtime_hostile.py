"""A hostile task: tries everything it can think of to write, or to read, where it may not.

Run as ``python runtime_hostile.py FOLDER``, where a test has laid out the folders; prints what it could do as
JSON. A victim of its own lies ready for each attempt, named like it.
"""

import ctypes
import json
import mmap
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECRET = "the catalog's secret"
MS_REMOUNT, MS_BIND, CLONE_NEWNS, CLONE_NEWUSER = 32, 4096, 0x20000, 0x10000000


class Place:
    """Where things lie: W may be written, O is somebody else's, H is hidden, H/lake and H/scratch are not."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.w, self.o, self.h = root / "writable", root / "others", root / "hidden"

    def victim(self, name: str) -> Path:
        return self.o / name

    def mine(self, name: str) -> Path:
        path = self.w / f"mine-{name}"
        path.write_text("mine")
        return path


def open_new(place: Place, name: str) -> None:
    (place.o / "made").write_text("x")


def overwrite(place: Place, name: str) -> None:
    place.victim(name).write_text("x")


def append(place: Place, name: str) -> None:
    with place.victim(name).open("a") as file:
        file.write("x")


def truncate(place: Place, name: str) -> None:
    os.truncate(place.victim(name), 0)


def truncate_by_opening_to_read(place: Place, name: str) -> None:
    os.close(os.open(place.victim(name), os.O_RDONLY | os.O_TRUNC))


def write_through_memory(place: Place, name: str) -> None:
    descriptor = os.open(place.victim(name), os.O_RDWR)
    with mmap.mmap(descriptor, 0) as memory:
        memory[0:1] = b"x"


def unlink(place: Place, name: str) -> None:
    place.victim(name).unlink()


def rename(place: Place, name: str) -> None:
    place.victim(name).rename(place.o / "renamed")


def rename_into_mine(place: Place, name: str) -> None:
    place.victim(name).rename(place.w / "taken")


def rename_over(place: Place, name: str) -> None:
    place.mine(name).replace(place.victim(name))


def rename_folder_away(place: Place, name: str) -> None:
    place.o.rename(place.w / "others")
    (place.w / "others").rename(place.o)


def make_folder(place: Place, name: str) -> None:
    (place.o / "folder-made").mkdir()


def remove_folder(place: Place, name: str) -> None:
    (place.o / "empty").rmdir()


def make_link_there(place: Place, name: str) -> None:
    (place.o / "link").symlink_to(place.mine(name))


def hard_link_there(place: Place, name: str) -> None:
    os.link(place.mine(name), place.o / "hard")


def write_through_own_link(place: Place, name: str) -> None:
    link = place.w / "to-victim"
    link.symlink_to(place.victim(name))
    link.write_text("x")


def write_through_own_hard_link(place: Place, name: str) -> None:
    os.link(place.victim(name), place.w / "hard-to-victim")
    (place.w / "hard-to-victim").write_text("x")


def write_through_linked_folder(place: Place, name: str) -> None:
    (place.w / "to-others").symlink_to(place.o)
    (place.w / "to-others" / name).write_text("x")


def write_by_dots(place: Place, name: str) -> None:
    Path(f"{place.w}/../others/{name}").write_text("x")


def write_by_own_root(place: Place, name: str) -> None:
    Path(f"/proc/self/root{place.victim(name)}").write_text("x")


def write_by_parents_root(place: Place, name: str) -> None:
    Path(f"/proc/{os.getppid()}/root{place.victim(name)}").write_text("x")


def write_by_folder_handle(place: Place, name: str) -> None:
    folder = os.open(place.o, os.O_PATH | os.O_DIRECTORY)
    os.write(os.open(name, os.O_WRONLY | os.O_TRUNC, dir_fd=folder), b"x")


def write_by_reopening(place: Place, name: str) -> None:
    descriptor = os.open(place.victim(name), os.O_RDONLY)
    Path(f"/proc/self/fd/{descriptor}").write_text("x")


def make_pipe(place: Place, name: str) -> None:
    os.mkfifo(place.o / "pipe")


def make_socket(place: Place, name: str) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        os.chdir(place.o)
        made.bind("socket")


def write_by_a_program(place: Place, name: str) -> None:
    subprocess.run(["sh", "-c", 'echo x > "$1"', "sh", place.victim(name)], check=True, capture_output=True)


def write_below_hidden(place: Place, name: str) -> None:
    (place.h / "catalog.db").write_text("x")


def make_below_hidden(place: Place, name: str) -> None:
    (place.h / "made").write_text("x")


def write_in_lake(place: Place, name: str) -> None:
    (place.h / "lake" / "rows").write_text("x")


WRITES: tuple[Callable[[Place, str], Any], ...] = (
    open_new, overwrite, append, truncate, truncate_by_opening_to_read, write_through_memory, unlink, rename,
    rename_into_mine, rename_over, rename_folder_away, make_folder, remove_folder, make_link_there,
    hard_link_there, write_through_own_link, write_through_own_hard_link, write_through_linked_folder,
    write_by_dots, write_by_own_root, write_by_parents_root, write_by_folder_handle, write_by_reopening,
    make_pipe, make_socket, write_by_a_program, write_below_hidden, make_below_hidden, write_in_lake,
)  # fmt: skip


def read_hidden(place: Place, name: str) -> str:
    return (place.h / "catalog.db").read_text()


def read_hidden_deeper(place: Place, name: str) -> str:
    return (place.h / "deep" / "secret").read_text()


def read_by_link(place: Place, name: str) -> str:
    link = place.w / "to-hidden"
    link.symlink_to(place.h)
    return (link / "catalog.db").read_text()


def read_by_link_beside(place: Place, name: str) -> str:
    return (place.root / "link-to-hidden" / "catalog.db").read_text()


def read_by_dots(place: Place, name: str) -> str:
    return Path(f"{place.h}/lake/../catalog.db").read_text()


def read_by_own_root(place: Place, name: str) -> str:
    return Path(f"/proc/self/root{place.h}/catalog.db").read_text()


def read_by_parents_root(place: Place, name: str) -> str:
    return Path(f"/proc/{os.getppid()}/root{place.h}/catalog.db").read_text()


def read_by_starters_descriptors(place: Place, name: str) -> str:
    for entry in Path(f"/proc/{sys.argv[2]}/fd").iterdir():
        if str(entry.readlink()).endswith("catalog.db"):
            return entry.read_text()
    raise FileNotFoundError


def read_by_hard_link(place: Place, name: str) -> str:
    os.link(place.h / "catalog.db", place.w / "hard-to-hidden")
    return (place.w / "hard-to-hidden").read_text()


def read_by_renaming(place: Place, name: str) -> str:
    (place.h / "deep").rename(place.w / "deep")
    shutil.copytree(place.w / "deep", place.h / "deep")
    return (place.w / "deep" / "secret").read_text()


def read_by_a_program(place: Place, name: str) -> str:
    return subprocess.check_output(["cat", place.h / "catalog.db"], text=True, stderr=subprocess.DEVNULL)


READS: tuple[Callable[[Place, str], str], ...] = (
    read_hidden, read_hidden_deeper, read_by_link, read_by_link_beside, read_by_dots, read_by_own_root,
    read_by_parents_root, read_by_starters_descriptors, read_by_hard_link, read_by_renaming, read_by_a_program,
)  # fmt: skip


def remount(place: Place, name: str) -> None:
    _called(ctypes.CDLL(None, use_errno=True).mount(b"none", b"/", None, MS_REMOUNT | MS_BIND, None))


def unmount(place: Place, name: str) -> None:
    _called(ctypes.CDLL(None, use_errno=True).umount2(bytes(place.h), 2))


def remount_as_root_of_a_namespace(place: Place, name: str) -> None:
    child = os.fork()
    if child == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        free = libc.unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0 and libc.umount2(bytes(place.h), 2) == 0
        free = free or libc.mount(b"none", b"/", None, MS_REMOUNT | MS_BIND, None) == 0
        os._exit(0 if free and os.access(place.o, os.W_OK) else 1)
    if os.waitpid(child, 0)[1]:
        raise PermissionError


def signal_starter(place: Place, name: str) -> None:
    os.kill(int(sys.argv[2]), 0)


def change_the_hosts_settings(place: Place, name: str) -> None:
    setting = Path("/proc/sys/vm/swappiness")
    setting.write_text(setting.read_text())


POWERS: tuple[Callable[[Place, str], None], ...] = (
    remount, unmount, remount_as_root_of_a_namespace, change_the_hosts_settings,
)  # fmt: skip
SIGNALS: tuple[Callable[[Place, str], None], ...] = (signal_starter,)


def _called(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), "refused")


def usual_work(place: Place, name: str) -> str:
    """Do what an honest task does."""
    import multiprocessing
    import tempfile
    import threading

    new = place.w / "new"
    new.write_text("x")
    with new.open("a") as file:
        file.write("y")
    os.truncate(new, 1)
    (place.w / "a" / "b").mkdir(parents=True)
    new.rename(place.w / "a" / "b" / "new")
    os.link(place.w / "a" / "b" / "new", place.w / "hard")
    (place.w / "soft").symlink_to("hard")
    assert (place.w / "soft").read_text() == "x"
    shutil.rmtree(place.w / "a")
    (place.h / "scratch" / "new").write_text("x")
    assert (place.h / "lake" / "rows").read_text() == "rows"
    assert place.victim("overwrite").read_text() == "kept"
    assert (place.root / "beside").read_text() == "beside"
    assert "others" in [entry.name for entry in place.root.iterdir()]
    with tempfile.TemporaryFile() as temporary:
        temporary.write(b"x")
    with Path(os.devnull).open("w") as nothing, Path("/dev/urandom").open("rb") as chance:
        nothing.write(chance.read(1).hex())
    with multiprocessing.Lock():
        thread = threading.Thread(target=subprocess.run, args=(["true"],))
        thread.start()
        thread.join()
    assert Path("/proc/self/status").read_text()
    return "worked"


def tried(attempt: Callable[[Place, str], Any], place: Place) -> str:
    """Return what an attempt brought: "done", what it read, or how it was refused."""
    here = Path.cwd()
    try:
        return attempt(place, attempt.__name__) or "done"
    except (OSError, subprocess.CalledProcessError) as error:
        return f"refused: {type(error).__name__}: {error}"
    finally:
        os.chdir(here)


def main() -> None:
    import msgspec

    from sidestage.runtime.sandbox import Sandbox

    place = Place(Path(sys.argv[1]))
    holds = msgspec.json.decode(sys.argv[3], type=Sandbox).apply()
    # Against the host itself only from behind a wall; honest work before what would destroy its files.
    powers = POWERS if holds != "none" else ()
    found = {
        attempt.__name__: tried(attempt, place)
        for attempt in (usual_work, *READS, *powers, *SIGNALS, *WRITES)
    }
    sys.stdout.write(json.dumps({"holds": holds, **found}))


if __name__ == "__main__":
    main()
