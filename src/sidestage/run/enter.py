"""A stepping stone into a virtual environment: makes it if needed, then becomes the command that runs in it.

Started as ``python -m sidestage.run.enter REQUIREMENTS CACHE PARENT_PID COMMAND... DESCRIPTOR``; ``{python}``
in the command stands for the environment's interpreter.
"""

import os
import sys
from pathlib import Path

import msgspec

from sidestage.errors import SidestageError
from sidestage.run.child import load_failed
from sidestage.runtime.channel import adopt
from sidestage.runtime.lifeline import end_with_parent
from sidestage.runtime.virtualenv import Environments


def main(arguments: list[str]) -> int:
    """Make the environment and become the command; if it cannot be made, say so as a worker would."""
    requirements, cache, parent, *command = arguments[1:]
    end_with_parent(int(parent))
    try:
        python = Environments(Path(cache)).hold(Path(requirements))
        # What this interpreter finds elsewhere is not what the environment asked for.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        words = [str(python) if word == "{python}" else word for word in command]
        os.execvpe(words[0], words, environment)  # noqa: S606  # no shell is wanted
    except (SidestageError, OSError) as error:
        adopt(int(command[-1])).send(msgspec.json.encode(load_failed(error)))
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv))
