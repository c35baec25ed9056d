"""A small pipeline of which one step does what a test wants: nine steps, of which two hang on that one."""

from sidestage.store.sql import open_store

HEAD = """
import os, signal, sys, time
from collections.abc import Iterator
import pyarrow as pa
from sidestage import Daily, Dataset, Partition, Pipeline, Retry, Static
from sidestage.checks import row_count

def note(step):
    with open("{LEDGER}", "a") as file:
        file.write(step + "\\n")

def first_try(step):
    return open("{LEDGER}").read().split().count(step) == 1

parts = Static(["a", "b", "c"])
first, second, other = Dataset("first", parts), Dataset("second", parts), Dataset("other", parts)
pipeline = Pipeline("small", retry=Retry(times=2, delay=0.01, longest=0.02))
"""

CHAIN = """
@pipeline.task(writes=first)
def make(part: Partition) -> pa.Table:
    note(f"make@{part.key}")
    if part.key == "b":
        BAD
    return pa.table({"n": [1]})

@pipeline.task(reads=first, writes=second)
def follow(part: Partition, rows: pa.Table) -> pa.Table:
    note(f"follow@{part.key}")
    return rows

@pipeline.task(writes=other)
def aside(part: Partition) -> pa.Table:
    note(f"aside@{part.key}")
    return pa.table({"n": [2]})
"""


def chain(new_project, bad):
    return new_project(HEAD + CHAIN.replace("BAD", bad))


def the_steps(project, run):
    return {step.id.removeprefix("small."): step for step in records(project, lambda store: store.steps(run))}


def records(project, look):
    with open_store(f"sqlite:///{project.root}/.sidestage/catalog.db") as store:
        return look(store)
