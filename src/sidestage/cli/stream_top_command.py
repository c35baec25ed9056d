"""``sidestage stream top``: the stages of a stream that runs, live."""

import time
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, urlsplit
from urllib.request import urlopen

import click
import msgspec
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sidestage.cli.console import console, escape
from sidestage.cli.options import json_option, print_json
from sidestage.errors import ConfigurationError, SidestageError
from sidestage.policy.limits import size_text
from sidestage.stream.memory.budget import MemoryCounts
from sidestage.stream.observing.advice import advice, quantile
from sidestage.stream.observing.costs import shown_seconds
from sidestage.stream.observing.metrics import StageCounts
from sidestage.stream.observing.recent import share_busy, since
from sidestage.stream.observing.scraping import Scraped, scraped

_PATIENCE = 5.0
_FULL, _BUSY = 0.8, 0.9
"""From when on a buffer, or a stage, is shown in red: little is left of it."""


class Seen:
    """What was seen of a stream at two moments: what happened in between is what is shown."""

    def __init__(self, now: Scraped, before: Scraped | None, seconds: float) -> None:
        self.now = now
        self._before = () if before is None else before.stages
        self.seconds = seconds
        self.done = since(now.stages, self._before)

    def rows(self) -> list[dict[str, object]]:
        """Return what there is to say of each stage."""
        return [self._row(now, late) for now, late in zip(self.now.stages, self.done, strict=True)]

    def advice(self) -> str:
        """Return who held the others up, as a sentence."""
        if not any(each.processed for each in self.done):
            return f"Nothing was done in the last {self.seconds:.3g} s."
        return advice(self.done, self.seconds)

    def _row(self, now: StageCounts, late: StageCounts) -> dict[str, object]:
        buckets = late.buckets if late.processed else now.buckets
        return {
            "stage": now.name,
            "workers": now.workers,
            "pending": now.pending,
            "buffer": now.buffer,
            "rate": late.processed / self.seconds,
            "errors": now.errors,
            "cancelled": now.cancelled,
            "new_errors": late.errors,
            "p50": quantile(buckets, 0.5),
            "p99": quantile(buckets, 0.99),
            "busy": share_busy(late, self.seconds),
        }


@click.command("top")
@click.argument("url")
@click.option(
    "--every",
    default=2.0,
    type=click.FloatRange(0.05, 3600),
    show_default=True,
    help="How often to look, in seconds.",
)
@click.option("--once", is_flag=True, help="Look twice, print one table, and end.")
@json_option
def command(url: str, every: float, *, once: bool, as_json: bool) -> int:
    """Show the stages of a stream that runs: what waits, how fast, how busy, and who holds the others up.

    URL is where it serves its metrics, such as http://localhost:9100/metrics, or just the port. Rates
    are those since the last look. Ctrl-C ends the view, not the stream.
    """
    address = address_of(url)
    before, at = read(address), time.monotonic()
    if once or as_json:
        time.sleep(every)
        seen = _look(address, before, at)
        if as_json:
            memory = None if seen.now.memory is None else msgspec.to_builtins(seen.now.memory)
            told = {"stages": seen.rows(), "sources": seen.now.lags, "memory": memory}
            print_json({**told, "advice": seen.advice()})
        else:
            console().print(drawn(seen))
        return 0
    return _watch(address, before, at, every)


def _watch(address: str, before: Scraped, at: float, every: float) -> int:
    out = console()
    with Live(Text(f"{address}: looking again in {every:g} s"), console=out, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(every)
                seen = _look(address, before, at)
                before, at = seen.now, time.monotonic()
                live.update(drawn(seen), refresh=True)
        except KeyboardInterrupt:
            return 0
        except SidestageError as error:
            ended = error
    out.print(f"{escape(ended.message)} Has the stream ended?", soft_wrap=True)
    return 0


def _look(address: str, before: Scraped, at: float) -> Seen:
    now = read(address)
    return Seen(now, before, max(time.monotonic() - at, 1e-6))


def address_of(url: str) -> str:
    """Return where metrics are, for what somebody typed. Raises ConfigurationError."""
    if url.isdigit():
        url = f"localhost:{url}"
    if "://" not in url:
        url = f"http://{url}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or not _has_good_port(parts):
        raise ConfigurationError(
            f"{url} is nowhere that metrics could be.", hint="Write http://HOST:PORT, or just the port."
        )
    return url if parts.path not in ("", "/") else f"{parts.scheme}://{parts.netloc}/metrics"


def _has_good_port(parts: SplitResult) -> bool:
    try:
        _ = parts.port
    except ValueError:
        return False
    return True


def read(address: str) -> Scraped:
    """Return what a stream tells of itself. Raises SidestageError if nobody answers, DataError."""
    try:
        with urlopen(address, timeout=_PATIENCE) as answer:  # noqa: S310 - http or https, as was looked at
            text = answer.read().decode("utf-8", "replace")
    except HTTPError as error:
        with error:
            said = error.read(200).decode("utf-8", "replace").strip()
        raise SidestageError(
            f"{address} answers {error.code}: {said}", hint="Is it the right address?"
        ) from error
    except (URLError, OSError, ValueError, HTTPException) as error:
        why = getattr(error, "reason", error)
        raise SidestageError(
            f"Nothing answers at {address}: {why}.",
            hint="Start a stream that serves its metrics: sidestage stream run MODULE:FLOW --metrics PORT",
        ) from error
    return scraped(text)


def drawn(seen: Seen) -> Group:
    """Return what people see."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("stage", no_wrap=True)
    for heading in ("workers", "pending", "items/s", "errors", "p50", "p99", "busy"):
        table.add_column(heading, justify="right", no_wrap=True)
    for now, late in zip(seen.now.stages, seen.done, strict=True):
        buckets = late.buckets if late.processed else now.buckets
        busy = share_busy(late, seen.seconds)
        table.add_row(
            escape(now.name),
            f"{now.workers}",
            _pending(now),
            f"{late.processed / seen.seconds:,.0f}",
            _marked(f"{now.errors:,}", bad=late.errors > 0),
            shown_seconds(quantile(buckets, 0.5)) if sum(buckets) else "",
            shown_seconds(quantile(buckets, 0.99)) if sum(buckets) else "",
            _marked(f"{busy:.0%}", bad=busy >= _BUSY),
        )
    lags = [
        f"{name}: the oldest item under way is {seconds:.3g} s old."
        for name, seconds in seen.now.lags.items()
        if seconds
    ]
    return Group(table, Text("\n".join([seen.advice(), *lags, *_memory(seen.now.memory), *_cancelled(seen)])))


def _memory(memory: MemoryCounts | None) -> list[str]:
    if memory is None:
        return []
    kept = [f"{kind} {size_text(size)}" for kind, size in memory.kept.items() if size]
    parts = f": {', '.join(kept)}" if kept else ""
    return [f"{size_text(memory.used)} of {size_text(memory.budget)} of memory are used{parts}."]


def _cancelled(seen: Seen) -> list[str]:
    return [
        f"{each.name}: {each.cancelled:,} item{'' if each.cancelled == 1 else 's'} cancelled."
        for each in seen.now.stages
        if each.cancelled
    ]


def _pending(stage: StageCounts) -> str:
    if not stage.buffer:
        return ""
    return _marked(f"{stage.pending:,}/{stage.buffer:,}", bad=stage.pending >= _FULL * stage.buffer)


def _marked(text: str, *, bad: bool) -> str:
    return f"[red]{text}[/red]" if bad else text
