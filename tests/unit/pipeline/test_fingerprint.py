"""Fingerprints: what changes them, and what must not."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from loaded import manifest_of

FLOW = '''
"""Delays by carrier."""
import statistics

from sidestage import Daily, Dataset, Partition, Pipeline
from sidestage.checks import row_count

import rounding
import units as measures
from cleaning import clean
from weather import *

try:
    from fast import median
except ImportError:
    from slow import median

if True:
    import seasons

days = Daily(start="2013-01-01", end="2013-01-31")
flights = Dataset("flights", days)
delays = Dataset("delays", days, checks=[row_count(at_least=1)])
summary = Dataset("summary", days)
LIMIT = 15
UNUSED = 1
OPTIONS = {}
OPTIONS["strict"] = True

pipeline = Pipeline("flow", owner="ann@example.org")


class Row:
    """A row."""

    scale = 60


def tidy(rows):
    """Tidy up."""
    return [row for row in rows if row < LIMIT]


def unrelated():
    return 5


def traced(function):
    return function


@pipeline.task(writes=flights)
def extract(day: Partition):
    """Read one day."""
    return [1]


@pipeline.task(reads=flights, writes=delays)
@traced
def by_carrier(day: Partition, rows, digits=2):
    """Add up."""
    from lazily import late

    # in minutes
    kept = clean(tidy(rows), strict=OPTIONS["strict"])
    measured = measures.minutes(kept) * Row.scale + rounding.half(kept, digits)
    return measured + median(kept) + seasons.factor(day) + chill(kept) + late(kept)


pipeline.sql("sum_up", reads=delays, writes=summary, query="sum.sql")
'''

BASE = {
    "flow.py": FLOW,
    "sum.sql": "select sum(delay) from delays",
    "rounding.py": "def half(x, digits):\n    return 0\n",
    "units.py": "FACTOR = 1\ndef minutes(rows):\n    return FACTOR\n",
    "cleaning/__init__.py": "from .basic import clean\n",
    "cleaning/basic.py": (
        "from . import words\nfrom .numbers import near as close\n\n"
        "def clean(rows, strict):\n    return words.strip(close(rows))\n\ndef other():\n    return 1\n"
    ),
    "cleaning/words.py": "def strip(x):\n    return x\n",
    "cleaning/numbers.py": "from .. import deep\n\ndef near(x):\n    return x\n\ndef far(x):\n    return x\n",
    "weather.py": "from climate import *\n\ndef rain():\n    return 0\n",
    "climate.py": "def chill(x):\n    return 0\n\ndef sun():\n    return 0\n",
    "slow.py": "def median(x):\n    return 0\n",
    "seasons.py": "def factor(day):\n    return 1\n",
    "lazily.py": "def late(x):\n    return 0\n\ndef early(x):\n    return 0\n",
    "uv.lock": "polars==1\n",
}
# Relative imports need a package above them, so the package does not reach beyond itself.
BASE["cleaning/numbers.py"] = BASE["cleaning/numbers.py"].replace("from .. import deep\n\n", "")
BASE = {(f"src/{name}" if name.startswith("cleaning/") else name): text for name, text in BASE.items()}


def edited(name: str, old: str, new: str, files: Mapping[str, str] = BASE) -> dict[str, str]:
    assert old in files[name], f"{old!r} is not in {name}"
    return {**files, name: files[name].replace(old, new)}


@pytest.fixture
def codes(tmp_path):
    """Fingerprints of the tasks of a project, laid out in a folder of its own each time."""
    count = 0

    def of(files: Mapping[str, str]) -> dict[str, str]:
        nonlocal count
        count += 1
        manifest = manifest_of(tmp_path / str(count), files)
        return {task.name: task.fingerprint for task in manifest.tasks}

    return of


def changed(codes, files: Mapping[str, str], base: Mapping[str, str] = BASE) -> set[str]:
    before, after = codes(base), codes(files)
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


def test_the_folder_does_not_matter(codes):
    assert changed(codes, BASE) == set()


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("flow.py", "    # in minutes\n", ""),
        ("flow.py", "    # in minutes\n", "    # in seconds, so far\n\n\n"),
        ("flow.py", 'clean(tidy(rows), strict=OPTIONS["strict"])', "clean(\n tidy( rows ),strict=OPTIONS['strict'])"),
        ("flow.py", '"""Add up."""', '"""Add up all."""'),
        ("flow.py", '    """Add up."""\n', ""),
        ("flow.py", '"""Tidy up."""', '"""."""'),
        ("flow.py", '"""A row."""', '"""Rows."""'),
        ("flow.py", '"""Delays by carrier."""', '"""Delays."""'),
        ("flow.py", "UNUSED = 1", "UNUSED = 2"),
        ("flow.py", "    return 5", "    return 6"),
        ("flow.py", "def unrelated():", "def more():\n    return 1\n\n\ndef unrelated():"),
        ("flow.py", "ann@example.org", "bob@example.org"),
        ("flow.py", 'start="2013-01-01"', 'start="2012-06-01"'),
        ("flow.py", 'end="2013-01-31"', 'end="2019-12-31"'),
        ("flow.py", ', end="2013-01-31"', ""),
        ("src/cleaning/basic.py", "def other():\n    return 1", "def other():\n    return 2"),
        ("src/cleaning/numbers.py", "def far(x):\n    return x", "def far(x):\n    return 1"),
        ("climate.py", "def sun():\n    return 0", "def sun():\n    return 1"),
        ("lazily.py", "def early(x):\n    return 0", "def early(x):\n    return 1"),
        ("sum.sql", "delays", "delays  \n"),
    ],
)  # fmt: skip
def test_what_does_not_decide_the_output_changes_nothing(codes, name, old, new):
    assert changed(codes, edited(name, old, new)) == set()


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("flow.py", "row < LIMIT", "row <= LIMIT"),
        ("flow.py", "LIMIT = 15", "LIMIT = 16"),
        ("flow.py", "LIMIT = 15", "LIMIT = 15\nLIMIT += 1"),
        ("flow.py", 'OPTIONS["strict"] = True', 'OPTIONS["strict"] = False'),
        ("flow.py", 'OPTIONS["strict"] = True', "OPTIONS.update(strict=True)"),
        ("flow.py", 'OPTIONS["strict"] = True', "OPTIONS['strict'] = True\nsorted(OPTIONS)"),
        ("flow.py", "def unrelated():", "Row.scale = 3\n\n\ndef unrelated():"),
        ("flow.py", "scale = 60", "scale = 3600"),
        ("flow.py", "digits=2", "digits=3"),
        ("flow.py", "+ median(kept)", "- median(kept)"),
        ("flow.py", "    return function", "    return function if LIMIT else None"),
        ("flow.py", "@traced\n", ""),
        ("flow.py", "at_least=1", "at_least=2"),
        ("flow.py", "from slow import median", "from statistics import median"),
        ("rounding.py", "return 0", "return 1"),
        ("units.py", "FACTOR = 1", "FACTOR = 60"),
        ("src/cleaning/basic.py", "close(rows)", "close(rows, 1)"),
        ("src/cleaning/words.py", "return x", "return x or 1"),
        ("src/cleaning/numbers.py", "def near(x):\n    return x", "def near(x):\n    return 2"),
        ("slow.py", "return 0", "return 1"),
        ("seasons.py", "return 1", "return 2"),
        ("climate.py", "def chill(x):\n    return 0", "def chill(x):\n    return 1"),
        ("lazily.py", "def late(x):\n    return 0", "def late(x):\n    return 1"),
    ],
)  # fmt: skip
def test_code_that_a_task_reaches_changes_its_fingerprint_and_no_other(codes, name, old, new):
    assert changed(codes, edited(name, old, new)) == {"by_carrier"}


def test_the_lock_file_changes_all(codes):
    assert changed(codes, {**BASE, "uv.lock": "polars==2\n"}) == {"extract", "by_carrier", "sum_up"}


def test_the_query_changes_its_task(codes):
    assert changed(codes, edited("sum.sql", "sum(", "avg(")) == {"sum_up"}


def test_an_edit_of_a_sibling_task_leaves_the_others_alone(codes):
    assert changed(codes, edited("flow.py", "return [1]", "return [2]")) == {"extract"}


def test_the_name_of_the_output_and_the_mapping_count(codes):
    windowed = edited(
        "flow.py", "reads=flights, writes=delays", "reads=window(flights, before=2), writes=delays"
    )
    windowed = edited("flow.py", "Daily, Dataset", "window, Daily, Dataset", windowed)
    assert changed(codes, windowed) == {"by_carrier"}
    assert changed(codes, edited("flow.py", '"flights"', '"raw"')) == {"extract", "by_carrier"}


@pytest.mark.parametrize("new", ["Hourly(start", 'Daily(tz="Europe/Berlin", start'])
def test_another_kind_or_zone_of_partitions_changes_the_tasks_that_write_them(codes, new):
    files = edited("flow.py", "Daily(start", new)
    files = edited("flow.py", "import Daily", "import Hourly, Daily", files)
    assert changed(codes, files) == {"extract", "by_carrier", "sum_up"}


PRODUCT = """
from sidestage import Daily, Dataset, Pipeline, Product, Static

places = Product({"day": Daily("2013-01-01"), "region": Static(["eu", "us"])})
sales = Dataset("sales", places)
pipeline = Pipeline("flow")


@pipeline.task(writes=sales)
def sell(partition):
    return [partition.key]
"""


def test_products_count_by_the_names_and_kinds_of_their_dimensions(codes):
    base = {"flow.py": PRODUCT}
    longer = edited("flow.py", 'Daily("2013-01-01")', 'Daily("2012-01-01", "2020-01-01")', base)
    wider = edited("flow.py", '"us"]', '"us", "asia"]', longer)
    assert changed(codes, wider, base) == set()
    assert changed(codes, edited("flow.py", '"region"', '"area"', base), base) == {"sell"}
    assert changed(codes, edited("flow.py", "Daily(", 'Daily(tz="Asia/Tokyo", start=', base), base) == {
        "sell"
    }


def test_a_dataset_that_a_function_uses_is_a_constant_like_any_other(codes):
    base = edited("flow.py", "return [1]", "return [days.start]")
    extended = edited("flow.py", 'start="2013-01-01"', 'start="2012-01-01"', base)
    assert changed(codes, extended, base) == {"extract"}


def test_a_task_that_calls_another_does_not_depend_on_how_that_is_declared(codes):
    base = edited("flow.py", "return [1]", "return by_carrier(day, [])")
    assert changed(codes, edited("flow.py", "ann@", "bob@", base), base) == set()
    assert changed(codes, edited("flow.py", "row < LIMIT", "row <= LIMIT", base), base) == {
        "extract",
        "by_carrier",
    }


def test_the_order_of_rebinding_counts(codes):
    base = edited("flow.py", "LIMIT = 15", "LIMIT = 15\nLIMIT = 16")
    assert changed(
        codes, edited("flow.py", "LIMIT = 15\nLIMIT = 16", "LIMIT = 16\nLIMIT = 15", base), base
    ) == {"by_carrier"}


FACTORY = """
from dataclasses import dataclass
from sidestage import Dataset, Pipeline
import parts

pipeline = Pipeline("flow")


@dataclass
class Rule:
    low: int


def make(name, value, rule=None):
    dataset = Dataset(name)

    def helper(x):
        return parts.grow(x)

    def run(partition):
        return [value, rule, helper(1), dataset.name]

    pipeline.task(writes=dataset, name=name)(run)


make("first", {"a": [1, 2]})
make("second", 2, Rule(low=1))
"""
FACTORY_BASE = {"flow.py": FACTORY, "parts.py": "def grow(x):\n    return x\n"}


def test_tasks_made_by_a_function_differ_by_what_they_were_given(codes):
    same = codes(FACTORY_BASE)
    assert same["first"] != same["second"]
    assert codes(FACTORY_BASE) == same
    assert changed(codes, edited("flow.py", "[1, 2]", "[1, 3]", FACTORY_BASE), FACTORY_BASE) == {"first"}
    assert changed(codes, edited("flow.py", "low=1", "low=2", FACTORY_BASE), FACTORY_BASE) == {"second"}


def test_functions_that_a_closure_holds_are_followed(codes):
    both = {"first", "second"}
    assert changed(codes, edited("parts.py", "return x", "return -x", FACTORY_BASE), FACTORY_BASE) == both
    assert changed(codes, edited("flow.py", "grow(x)", "grow(x) + 1", FACTORY_BASE), FACTORY_BASE) == both


WRAPPED = """
import functools
from sidestage import Dataset, Pipeline

sales = Dataset("sales")
pipeline = Pipeline("flow")


def bare(function):
    def call(partition):
        return function(partition)
    return call


@pipeline.task(writes=sales, name="sell")
@bare
def sell(partition):
    return [1]
"""


@pytest.mark.parametrize("kept", ["    def call", "    @functools.wraps(function)\n    def call"])
def test_a_function_behind_a_decorator_is_followed(codes, kept):
    base = {"flow.py": WRAPPED.replace("    def call", kept)}
    assert changed(codes, edited("flow.py", "return [1]", "return [2]", base), base) == {"sell"}
    assert changed(codes, edited("flow.py", "return function(", "return 2 * function(", base), base) == {
        "sell"
    }


def test_a_default_value_counts(codes):
    flow = WRAPPED.replace("@bare\ndef sell(partition)", "def sell(partition, many=BOUND)")
    base = {"flow.py": flow.replace("pipeline = ", "BOUND = 1\npipeline = ")}
    assert changed(codes, edited("flow.py", "BOUND = 1", "BOUND = 2", base), base) == {"sell"}


def test_a_name_that_is_both_module_and_function_is_followed_both_ways(codes):
    flow = WRAPPED.replace("import functools", "from tools import grow").replace(
        "return [1]", "return grow([1])"
    )
    base = {
        "flow.py": flow,
        "src/tools/__init__.py": "from .other import grow\n",
        "src/tools/other.py": "def grow(x):\n    return x\n",
        "src/tools/grow.py": "A = 1\n",
    }
    assert changed(codes, edited("src/tools/other.py", "return x", "return x + x", base), base) == {"sell"}


def test_circular_imports_end(codes):
    flow = WRAPPED.replace("import functools", "import one").replace("return [1]", "return one.first()")
    base = {
        "flow.py": flow,
        "one.py": "import two\n\ndef first():\n    return two.second()\n",
        "two.py": "import one\n\ndef second():\n    return [1]\n\ndef again():\n    return one.first()\n",
    }
    assert changed(codes, edited("two.py", "[1]", "[2]", base), base) == {"sell"}


def test_relative_imports_from_above(codes):
    flow = WRAPPED.replace("import functools", "from tools.inner.leaf import grow").replace(
        "return [1]", "return grow(1)"
    )
    base = {
        "flow.py": flow,
        "src/tools/__init__.py": "",
        "src/tools/inner/__init__.py": "",
        "src/tools/inner/leaf.py": "from ..stem import sap\nfrom .. import root as base\n\ndef grow(x):\n    return [sap(x), base.W]\n",
        "src/tools/stem.py": "def sap(x):\n    return x\n",
        "src/tools/root.py": "W = 1\n",
    }
    assert changed(codes, edited("src/tools/stem.py", "return x", "return 2", base), base) == {"sell"}
    assert changed(codes, edited("src/tools/root.py", "W = 1", "W = 2", base), base) == {"sell"}


def test_the_interpreter_counts_where_there_is_no_lock(tmp_path: Path):
    from sidestage.pipeline.fingerprint import lock_digest

    assert lock_digest(tmp_path).startswith("python-3.")
    (tmp_path / "requirements.txt").write_text("polars\n")
    assert lock_digest(tmp_path).startswith(f"{lock_digest(tmp_path / 'none')}:")
