"""Loading a project, and its description as values."""

import msgspec
import pytest
from loaded import loaded, manifest_of, write

from sidestage.errors import ConfigurationError, DefinitionError, GraphError, NotFound
from sidestage.pipeline.manifest import Manifest
from sidestage.pipeline.projectfile import (
    CodeSection,
    ProjectFile,
    find_root,
    read_project_file,
)
from sidestage.policy.retry import Retry

FLOW = """
from sidestage import Daily, Dataset, Pipeline, Retry
from sidestage.checks import row_count, same_total

days = Daily("2013-01-01")
raw = Dataset("raw", days, checks=[row_count(at_least=1)])
out = Dataset("out", days, key=["carrier"], compare=[same_total("minutes", within=0.001)])
pipeline = Pipeline("flow", owner="ann@example.org", retry=Retry(times=5))


@pipeline.task(reads=raw, writes=out, retry=Retry(times=0))
def add_up(day, rows):
    return rows


@pipeline.task(writes=raw)
def extract(day):
    return []
"""


def test_the_manifest_says_what_was_declared_and_survives_json(tmp_path):
    manifest = manifest_of(tmp_path, {"flow.py": FLOW})
    assert [task.id for task in manifest.tasks] == ["flow.extract", "flow.add_up"]
    assert [task.retry for task in manifest.tasks] == [Retry(times=5), Retry(times=0)]
    assert manifest.task_by_id["flow.add_up"].location == "src/flow.py:11"
    assert manifest.writer_of["raw"].name == "extract"
    assert manifest.dataset_by_name["out"].key == ("carrier",)
    assert manifest.pipeline("flow").owner == "ann@example.org"
    assert msgspec.json.decode(msgspec.json.encode(manifest), type=Manifest) == manifest
    with pytest.raises(NotFound, match=r"no pipeline 'flo'.*flow"):
        manifest.pipeline("flo")


def file(*modules: str, source: str = "src") -> ProjectFile:
    return ProjectFile(project=CodeSection(name="demo", pipelines=modules, source=source))


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("import nowhere_at_all\n", "flow.py:1: importing the module 'flow' failed: ModuleNotFoundError"),
        ("x = 1\ny = x / 0\n", "flow.py:2: importing the module 'flow' failed: ZeroDivisionError"),
        ("def x(:\n", "importing the module 'flow' failed: SyntaxError"),
        ("x = 1\n", "The module 'flow' declares no Pipeline"),
    ],
)
def test_modules_that_cannot_be_used(tmp_path, code, text):
    with pytest.raises(ConfigurationError) as caught, loaded(write(tmp_path, {"flow.py": code})):
        pass
    assert text in str(caught.value)


def test_a_refused_declaration_comes_through_as_it_is(tmp_path):
    code = FLOW.replace("reads=raw", "reads=[raw, raw]")
    with (
        pytest.raises(DefinitionError, match=r"src/flow.py:11: task 'add_up' reads 2"),
        loaded(write(tmp_path, {"flow.py": code})),
    ):
        pass


def test_no_such_module_and_no_such_folder(tmp_path):
    write(tmp_path, {"flow.py": FLOW})
    with (
        pytest.raises(ConfigurationError, match="importing the module 'none_such' failed"),
        loaded(tmp_path, file("none_such")),
    ):
        pass
    with (
        pytest.raises(ConfigurationError, match=r"the source folder .* does not exist"),
        loaded(tmp_path, file("flow", source="code")),
    ):
        pass


def test_a_pipeline_seen_from_two_modules_is_one_but_two_of_a_name_are_refused(tmp_path):
    write(tmp_path, {"flow.py": FLOW, "again.py": "from flow import pipeline\n", "twin.py": FLOW})
    with loaded(tmp_path, file("flow", "again")) as graph:
        assert len(graph.pipelines) == 1
    with (
        pytest.raises(ConfigurationError, match="Two pipelines are named 'flow'"),
        loaded(tmp_path, file("flow", "twin")),
    ):
        pass


def test_pipelines_may_read_each_others_datasets(tmp_path):
    other = (
        "from sidestage import Dataset, Pipeline\nfrom flow import out, days\nlater = Pipeline('later')\n"
        "later.sql('use', reads=out, writes=Dataset('later', days), query='select 1')\n"
    )
    write(tmp_path, {"flow.py": FLOW, "other.py": other})
    with loaded(tmp_path, file("flow", "other")) as graph:
        assert [task.name for _, task in graph.order] == ["extract", "add_up", "use"]
    alone = other.replace("from flow import out, days", "days=None\nout=Dataset('out')")
    write(tmp_path, {"other.py": alone})
    with (
        pytest.raises(GraphError, match=r"other.py:5: task 'use' reads 'out', which no task writes"),
        loaded(tmp_path, file("other")),
    ):
        pass


class TestProjectFile:
    def test_it_is_found_above(self, tmp_path):
        inner = tmp_path / "a" / "b"
        inner.mkdir(parents=True)
        with pytest.raises(ConfigurationError, match=r"no sidestage.toml in .*b or any folder above"):
            find_root(inner)
        (tmp_path / "sidestage.toml").write_text('[project]\nname = "x"\npipelines = ["flow"]\n')
        assert find_root(inner) == tmp_path
        assert read_project_file(tmp_path).project == CodeSection("x", ("flow",))

    @pytest.mark.parametrize(
        "text",
        [
            "[project",
            "",
            '[project]\nname = "x"\n',
            '[project]\nname = "x"\npipelines = ["a"]\ncolour = 1\n',
            "é\0",
        ],
    )
    def test_faults_name_the_file(self, tmp_path, text):
        (tmp_path / "sidestage.toml").write_text(text)
        with pytest.raises(ConfigurationError, match=r"sidestage\.toml: "):
            read_project_file(tmp_path)

    def test_faults_of_encoding_and_absence(self, tmp_path):
        with pytest.raises(ConfigurationError, match="cannot be read"):
            read_project_file(tmp_path)
        (tmp_path / "sidestage.toml").write_bytes(b"\xff\xfe")
        with pytest.raises(ConfigurationError, match=r"sidestage\.toml: "):
            read_project_file(tmp_path)
