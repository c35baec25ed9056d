"""``python -m sidestage`` is the command ``sidestage``."""

import sys

from sidestage.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
