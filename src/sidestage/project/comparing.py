"""Compares a candidate with its base, and keeps the comparison, its report and its differences."""

import uuid
from pathlib import Path

import msgspec
from msgspec.structs import replace

from sidestage.checks.result import Comparison
from sidestage.clock import Clock
from sidestage.data.lake_writer import LakeWriter
from sidestage.pipeline.manifest import Manifest
from sidestage.project.candidates import Candidates
from sidestage.project.discrepancies import publish_discrepancies
from sidestage.project.layout import Layout
from sidestage.release.difference import differences, world_digest
from sidestage.release.rehearsal import Rehearsal, compare
from sidestage.release.report import render_html, to_json
from sidestage.store.contract import Store
from sidestage.store.records import ComparisonRecord, Environment


class Compared(msgspec.Struct, frozen=True):
    """A comparison that was made.

    ``report`` is the path of its page; ``discrepancies`` the version of the candidate's dataset
    ``sidestage/discrepancies`` that lists every difference.
    """

    id: int
    comparison: Comparison
    report: str
    discrepancies: str


def compare_candidate(
    store: Store, layout: Layout, clock: Clock, candidates: Candidates, name: str, manifest: Manifest
) -> Compared:
    """Compare everything that a candidate's code declares, and keep the result."""
    rehearsal = _rehearsal(store, candidates, candidates.environment(name), manifest)
    folder = layout.reports / name / uuid.uuid4().hex[:12]
    folder.mkdir(parents=True)
    lake = LakeWriter(layout.lake)
    with layout.workspace() as scratch:
        result = compare(rehearsal, lake, scratch, scratch / "discrepancies")
        files = [Path(entry.discrepancies.path) for entry in result.datasets if entry.discrepancies]
        published = publish_discrepancies(store, lake, clock, name, candidates.by, files)
    result = _pointing_at(result, str(lake.path(published.stored)))
    now = clock.now()
    page = folder / "report.html"
    title = f"{name} against {rehearsal.base.name}"
    page.write_text(render_html(result, title, {"Compared at": f"{now:%Y-%m-%d %H:%M:%S} UTC"}), "utf-8")
    (folder / "report.json").write_bytes(to_json(result))
    record = ComparisonRecord(
        id=0,
        environment=name,
        base=rehearsal.base.name,
        at=now,
        passed=result.passed,
        verdict=result.verdict,
        world=world_digest(rehearsal.found),
        summary=_summary(result),
        report=str(page),
    )
    return Compared(store.save_comparison(record), result, str(page), published.id)


def _rehearsal(store: Store, candidates: Candidates, candidate: Environment, manifest: Manifest) -> Rehearsal:
    base = candidates.base(candidate)
    base_pointers = store.pointers(base.name)
    found = differences(store.pointers(candidate.name), base_pointers, manifest.writer_of.keys())
    shown = {*base_pointers.values(), *(entry.candidate for entry in found)}
    return Rehearsal(
        manifest=manifest,
        candidate=candidate,
        base=base,
        base_pointers=base_pointers,
        found=found,
        versions=store.versions(shown),
        datasets=tuple(task.writes for task in manifest.tasks),
    )


def _pointing_at(result: Comparison, path: str) -> Comparison:
    """Return the comparison with the differences where they were published, not where they were collected."""
    datasets = tuple(
        entry
        if entry.discrepancies is None
        else replace(entry, discrepancies=replace(entry.discrepancies, path=path))
        for entry in result.datasets
    )
    return replace(result, datasets=datasets)


def _summary(result: Comparison) -> str:
    counts = {
        entry.dataset: {
            "verdict": entry.verdict,
            "changed": entry.changed,
            "missing": entry.missing,
            "extra": entry.extra,
            "rows": entry.rows_candidate,
        }
        for entry in result.datasets
    }
    return msgspec.json.encode(counts).decode()
