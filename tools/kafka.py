"""A Kafka broker for tests: fetches its jars once, checks them, and prints the folder they lie in.

Maven fetches them, with its own settings (mirrors, proxies, a local repository), so that no address stands
here. What belongs to the broker, byte for byte, is in kafka.sha256; a folder that holds anything else, or
less, is fetched again. It lies in the user's cache (SIDESTAGE_CACHE names another), never in the repository.

    tools/kafka.py           fetch what is missing, print the folder
    tools/kafka.py --write   after a change of a version below: fetch, and write kafka.sha256 anew
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

KAFKA = ("org.apache.kafka", "kafka_2.13", "4.3.1")
LOGGING = ("org.slf4j", "slf4j-simple", "1.7.36")
PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1"
LOCK = Path(__file__).with_name("kafka.sha256")
SECONDS = 600


def main() -> int:
    """Print the folder; return 1, with the reason, if the broker cannot be had."""
    lacking = [program for program in ("java", "mvn") if shutil.which(program) is None]
    if lacking:
        print(f"A Kafka broker needs the programs {' and '.join(lacking)}.", file=sys.stderr)
        return 1
    if sys.argv[1:] == ["--write"]:
        with tempfile.TemporaryDirectory(prefix="sidestage-kafka-") as folder:
            jars = Path(folder) / "jars"
            if not fetch(jars):
                return 1
            LOCK.write_text("".join(f"{digest}  {name}\n" for name, digest in digests(jars).items()))
    wanted = locked()
    jars = cache() / f"kafka-{KAFKA[2]}-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]}"
    if digests(jars) != wanted and not renew(jars, wanted):
        return 1
    print(jars)
    return 0


def renew(jars: Path, wanted: dict[str, str]) -> bool:
    """Fetch the jars beside their place and put them there, if they are those that are locked."""
    jars.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="new-", dir=jars.parent) as folder:
        fresh = Path(folder) / "jars"
        if not fetch(fresh):
            return False
        found = digests(fresh)
        if found != wanted:
            names = sorted(name for name, _ in set(found.items()) ^ set(wanted.items()))
            print(f"Not the jars that kafka.sha256 names: {', '.join(dict.fromkeys(names))}", file=sys.stderr)
            return False
        if digests(jars) == wanted:  # somebody else was faster, and perhaps a broker runs from there
            return True
        if jars.exists():
            jars.rename(Path(folder) / "old")
        try:
            fresh.rename(jars)
        except OSError:  # somebody else was faster
            return digests(jars) == wanted
    return True


def fetch(jars: Path) -> bool:
    """Have Maven copy the broker and all it needs into a new folder."""
    dependencies = "".join(
        f"<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId><version>{version}</version></dependency>"
        for group, name, version in (KAFKA, LOGGING)
    )
    project = (
        "<project><modelVersion>4.0.0</modelVersion><groupId>sidestage</groupId><artifactId>broker</artifactId>"
        f"<version>1</version><packaging>pom</packaging><dependencies>{dependencies}</dependencies></project>"
    )
    jars.parent.mkdir(parents=True, exist_ok=True)
    (jars.parent / "pom.xml").write_text(project)
    options = ("-DincludeScope=runtime", f"-DoutputDirectory={jars}")
    print(f"fetching Kafka {KAFKA[2]}", file=sys.stderr, flush=True)
    done = subprocess.run(
        ["mvn", "-B", "-q", "-Dstyle.color=never", f"{PLUGIN}:copy-dependencies", *options],
        cwd=jars.parent,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        timeout=SECONDS,
        check=False,
    )
    return done.returncode == 0


def digests(jars: Path) -> dict[str, str]:
    """Return the SHA-256 digests of the files in a folder, by name."""
    if not jars.is_dir():
        return {}
    return {file.name: _digest(file) for file in sorted(jars.iterdir())}


def locked() -> dict[str, str]:
    """Return the digests that must be there."""
    lines = (line.split() for line in LOCK.read_text().splitlines())
    return {name: digest for digest, name in lines}


def cache() -> Path:
    """Return where downloads of this user may lie."""
    given = os.environ.get("SIDESTAGE_CACHE")
    common = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given) if given else Path(common) / "sidestage"


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


if __name__ == "__main__":
    sys.exit(main())
