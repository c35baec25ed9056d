"""Programs of the system that some tests use: installs those that are missing, where it may.

As root on Debian they are installed by apt-get. Elsewhere the tests that need them are skipped, aloud; in CI
(variable CI) a program that is missing in the end is a failure.
"""

import os
import shutil
import subprocess
import sys

PACKAGES = {
    "bwrap": "bubblewrap",
    "strace": "strace",
    "faketime": "faketime",
    "java": "default-jre-headless",
    "mvn": "maven",
}


def missing() -> list[str]:
    """Return the programs that are not there."""
    return [program for program in PACKAGES if shutil.which(program) is None]


def main() -> int:
    """Install what is missing; return 1 if something is in CI all the same."""
    wanted = missing()
    if wanted and os.getuid() == 0 and shutil.which("apt-get"):
        names = [PACKAGES[program] for program in wanted]
        print(f"installing {', '.join(names)}", flush=True)
        quiet = {"stdout": subprocess.DEVNULL, "env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}}
        subprocess.run(["apt-get", "update", "-qq"], check=False, **quiet)
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *names]
        subprocess.run(install, check=False, **quiet)
    left = missing()
    if left:
        print(f"not installed: {', '.join(left)}; tests that need them are skipped", flush=True)
    return 1 if left and os.environ.get("CI") else 0


if __name__ == "__main__":
    sys.exit(main())
