"""Play the whole story on real data: a year of flights, an error in production, its understudy, and back.

Everything happens in a folder of its own (.demo unless named) and by the commands that a user would type.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel

REPOSITORY = Path(__file__).resolve().parents[1]
EXAMPLE = REPOSITORY / "examples" / "flights"
CANDIDATE = "fix-midnight"
FAILING_STEP = "flights.denormalise@2013-07-04"
GATE_CLOSED, STEPS_FAILED = 3, 4

DELAY = "SELECT sum(delay_minutes)::BIGINT AS minutes FROM production.delays"


class Demo:
    """One performance, in one project folder."""

    def __init__(self, folder: Path) -> None:
        self.project = folder / "flights"
        self.report = folder / "comparison.html"
        self.console = Console()
        self.started = time.monotonic()

    def play(self) -> None:
        """All acts, in order. Raises SystemExit if one does not go as told."""
        self.prepare()
        self.production()
        self.first_attempt()
        self.second_attempt()
        self.curtain()
        self.failure_at_step()
        self.close()

    def prepare(self) -> None:
        """Copy the example and make it a git repository, as a user's project would be."""
        shutil.rmtree(self.project, ignore_errors=True)
        ignored = shutil.ignore_patterns(".sidestage", "__pycache__", ".pytest_cache")
        shutil.copytree(EXAMPLE, self.project, ignore=ignored)
        self.git("init", "--quiet", "--initial-branch=main")
        self.commit("Flights, as they run in production")

    def production(self) -> None:
        """A year of production."""
        self.act("Production", "336,776 flights out of New York in 2013: 365 days, seven datasets.")
        self.sidestage("run", "flights")
        self.sidestage("datasets")
        self.act(
            "The error",
            "Clock times are read as New York's, on the day a flight was due: flights delayed past midnight "
            "leave a day early, arrivals in Los Angeles land before they depart.",
        )

    def first_attempt(self) -> None:
        """A candidate that the audit refuses."""
        self.act("First attempt", "A branch repairs it, and makes the broken warning a blocking check.")
        self.git("switch", "--quiet", "--create", CANDIDATE)
        self.patch("1-fix-midnight.patch", "Arrivals in the destination's time")
        self.git("switch", "--quiet", "main")
        self.sidestage("stage", "flights", "--code", f"git:{CANDIDATE}", expect=STEPS_FAILED)
        self.say("Refused: winter's offset is wrong from 10 March on. Production has not noticed a thing.")
        self.sidestage("promote", CANDIDATE, expect=GATE_CLOSED)

    def second_attempt(self) -> None:
        """The corrected candidate: staged, compared, promoted."""
        self.act("Second attempt", "A second commit on the branch: real time zones.")
        self.git("switch", "--quiet", CANDIDATE)
        self.patch("2-fix-time-zones.patch", "Real time zones")
        self.git("switch", "--quiet", "main")
        self.sidestage("plan", "flights", "--code", f"git:{CANDIDATE}")
        self.sidestage("stage", "flights", "--code", f"git:{CANDIDATE}")
        self.sidestage("compare", CANDIDATE, "--html", str(self.report))

    def curtain(self) -> None:
        """Promotion, and back."""
        self.act("Curtain", "Every gate is open; the very files that were compared become production's.")
        before = self.delay()
        self.sidestage("promote", CANDIDATE, "--reason", "flights after midnight")
        after = self.delay()
        self.say(f"Minutes of delay in production: {before:,} before, {after:,} now.")
        self.sidestage("rollback", "flights", "--reason", "to show that it works")
        if self.delay() != before or after == before:
            raise SystemExit("Rolling back did not bring back what was there before.")
        self.say(f"And back: {before:,}. Promoted once more, this time for good:")
        self.sidestage("promote", CANDIDATE, "--reason", "for good")
        self.git("merge", "--quiet", "--ff-only", CANDIDATE)

    def failure_at_step(self) -> None:
        """One step fails; the run is resumed from there."""
        self.act("2 a.m.", f"A recomputation of July fails at {FAILING_STEP}.")
        self.sidestage(
            *("run", "flights", "--days", "2013-07", "--recompute", "--reason", "rehearse a failure"),
            expect=STEPS_FAILED,
            fault=f"fail:{FAILING_STEP}",
        )
        self.say("What does not depend on it went on. Resumed from that step; nothing else is run again:")
        self.sidestage("run", "flights", "--resume")

    def close(self) -> None:
        """Where to go from here."""
        self.console.rule()
        seconds = time.monotonic() - self.started
        self.console.print(f"Played in {seconds:.0f} s. The comparison that let the change pass, as a page:")
        self.console.print(f"  {self.report}", soft_wrap=True)
        self.console.print(f"Three things to try in {self.project}:")
        command = Path(sys.executable).with_name("sidestage")
        for line in (
            "status",
            "history --moves",
            'sql "SELECT carrier, sum(delay_minutes) FROM production.delays GROUP BY 1 ORDER BY 2 DESC"',
        ):
            self.console.print(f"  {escape(str(command))} {escape(line)}", soft_wrap=True)

    def delay(self) -> int:
        """Return production's minutes of delay in the year."""
        return int(json.loads(self.sidestage("sql", "--json", DELAY, show=False))[0]["minutes"])

    def act(self, title: str, text: str) -> None:
        """Announce an act."""
        self.console.print()
        self.console.print(Panel(escape(text), title=f"[bold]{escape(title)}", title_align="left"))

    def say(self, text: str) -> None:
        """Comment on what happened."""
        self.console.print(f"[italic]{escape(text)}")

    def sidestage(self, *words: str, expect: int = 0, fault: str = "", show: bool = True) -> str:
        """Run a command of Sidestage; anything but the expected exit status ends the demo."""
        if show:
            shown = " ".join(f'"{word}"' if " " in word else word for word in words)
            self.console.print(
                f"\n[bold green]$[/bold green] [bold]sidestage {escape(shown)}", soft_wrap=True
            )
        environment: Mapping[str, str] = {**os.environ, **({"SIDESTAGE_FAULT": fault} if fault else {})}
        done = subprocess.run(
            [sys.executable, "-m", "sidestage", *words],
            cwd=self.project,
            env=environment,
            stdout=None if show else subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode != expect:
            raise SystemExit(f"sidestage {words[0]} ended with {done.returncode}, not {expect}.")
        return done.stdout or ""

    def patch(self, name: str, message: str) -> None:
        """Apply one of the example's changes and commit it."""
        self.git("apply", f"changes/{name}")
        self.commit(message)

    def commit(self, message: str) -> None:
        """Commit everything."""
        self.git("add", "--all")
        who = ("-c", "user.name=Demo", "-c", "user.email=demo@airport.example")
        self.git(*who, "commit", "--quiet", "--message", message)

    def git(self, *words: str) -> None:
        """Run git in the project."""
        subprocess.run(["git", "-C", str(self.project), *words], check=True)


def main() -> None:
    """Read the command line and play."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=REPOSITORY / ".demo", help="where to play")
    arguments = parser.parse_args()
    Demo(arguments.folder.resolve()).play()


if __name__ == "__main__":
    main()
