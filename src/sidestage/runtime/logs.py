"""Where what a task prints is kept."""

from pathlib import Path

from sidestage.data.names import file_key


def attempt_log(folder: Path, run: int, step: str, attempt: int) -> Path:
    """Return the file for one attempt's output; it exists only if something was printed."""
    return folder / f"run-{run}" / f"{file_key(step)}.{attempt}.log"
