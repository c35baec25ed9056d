"""The command, saying aloud what was published: ``python -m torture.spoken DESCRIPTOR WORDS...``.

It is ``sidestage WORDS...`` as it is. Only who listens to its project, and hears of a publication once the
catalog has acknowledged it, also writes a line to the descriptor, with the moment on the monotonic clock.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import Any, get_args

from torture.acknowledged import Acknowledged
from torture.weakened import WITHOUT, Safeguard, weaken


def speak(descriptor: int) -> None:
    """Make whoever listens to a project in this process hear it aloud."""
    from sidestage.events import Event, Listener, StepPublished  # noqa: PLC0415  # counts as the start
    from sidestage.project.project import Project  # noqa: PLC0415

    silent: Callable[..., None] = Project.__init__

    def aloud(self: Project, *arguments: Any, listener: Listener, **options: Any) -> None:
        def hear(event: Event, /) -> None:
            if isinstance(event, StepPublished):
                said = Acknowledged(time.monotonic(), int(event.run), event.step, event.version)
                os.write(descriptor, said.spoken().encode())
            listener(event)

        silent(self, *arguments, listener=hear, **options)

    Project.__init__ = aloud  # type: ignore[method-assign, assignment]


def main(arguments: list[str]) -> int:
    """Speak on the descriptor that is the first argument; the rest are the command's words."""
    descriptor, *words = arguments
    os.set_inheritable(int(descriptor), False)  # noqa: FBT003
    missing = os.environ.get(WITHOUT, "").split(",")
    weaken([safeguard for safeguard in get_args(Safeguard) if safeguard in missing])
    speak(int(descriptor))
    from sidestage.cli.main import main as sidestage  # noqa: PLC0415

    sys.argv = ["sidestage", *words]
    return sidestage(words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
