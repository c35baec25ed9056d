"""Laying out a candidate's code: commits into worktrees, the working tree as a copy."""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidestage.errors import ConfigurationError, NotFound
from sidestage.release.code import Code, lay_out, name_of_working_tree

IDENTITY = {
    f"GIT_{who}_{what}": f"{who.lower()}@example.org"
    for who in ("AUTHOR", "COMMITTER")
    for what in ("NAME", "EMAIL")
}


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))


def git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments],
        capture_output=True, text=True, check=True, env={**os.environ, **IDENTITY},
    )  # fmt: skip
    return done.stdout.strip()


def commit(root: Path, message: str = "change") -> str:
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--allow-empty", "-m", message)
    return git(root, "rev-parse", "HEAD")


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / (name if "/" in name else name.replace("__", "/").replace("_py", ".py"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def repository(tmp_path) -> Path:
    """A repository whose first commit says one, whose branch "fix" says two, and whose working tree is one."""
    root = tmp_path / "repository"
    root.mkdir()
    git(root, "init", "--quiet", "--initial-branch=main")
    write(root, src__flow_py="one")
    commit(root)
    git(root, "switch", "--quiet", "--create", "fix")
    write(root, src__flow_py="two")
    commit(root)
    git(root, "switch", "--quiet", "main")
    return root


@pytest.fixture
def releases(repository) -> Path:
    folder = repository / ".sidestage" / "releases"
    folder.mkdir(parents=True)
    (folder.parent / ".gitignore").write_text("*\n")
    return folder


def text_of(code: Code, name: str = "src/flow.py") -> str:
    return (Path(code.root) / name).read_text()


class TestCommits:
    def test_a_branch(self, repository, releases):
        code = lay_out("git:fix", repository, releases)
        assert code.name == f"git:{git(repository, 'rev-parse', 'fix')}"
        assert code.label == "fix"
        assert text_of(code) == "two"
        assert Path(code.root).is_relative_to(releases)
        assert (repository / "src/flow.py").read_text() == "one"
        assert git(repository, "status", "--porcelain") == ""

    @pytest.mark.parametrize("ref", ["HEAD", "main", "v1", "fix~1", "HEAD^0", "HEAD@{0}"])
    def test_whatever_names_a_commit(self, repository, releases, ref):
        git(repository, "-c", "user.name=x", "-c", "user.email=x", "tag", "-a", "-m", "x", "v1")
        code = lay_out(f"git:{ref}", repository, releases)
        assert code.name == f"git:{git(repository, 'rev-parse', 'main')}"
        assert text_of(code) == "one"

    def test_the_same_commit_is_laid_out_once(self, repository, releases):
        first = lay_out("git:fix", repository, releases)
        (Path(first.root) / "mark").touch()
        second = lay_out(f"git:{first.name.removeprefix('git:')[:10]}", repository, releases)
        assert second.root == first.root
        assert (Path(second.root) / "mark").exists()

    def test_changes_that_were_not_committed_are_not_in_it(self, repository, releases):
        write(repository, src__flow_py="three")
        assert text_of(lay_out("git:HEAD", repository, releases)) == "one"

    def test_a_project_in_a_folder_of_the_repository(self, repository):
        project = repository / "teams" / "shop"
        write(project, src__flow_py="shop")
        commit(repository)
        before = git(repository, "rev-parse", "fix")
        code = lay_out("git:main", project, project / ".sidestage" / "releases")
        assert text_of(code) == "shop"
        assert code.root.endswith("/teams/shop")
        with pytest.raises(NotFound, match=f"{before[:16]} has no folder teams/shop") as caught:
            lay_out("git:fix", project, project / ".sidestage" / "releases")
        assert caught.value.hint

    def test_a_project_reached_through_a_link(self, repository, releases, tmp_path):
        (tmp_path / "link").symlink_to(repository)
        assert text_of(lay_out("git:fix", tmp_path / "link", releases)) == "two"

    @pytest.mark.parametrize(
        "ref",
        [
            "no-such-branch", "--help", "-h", "a b", "--all", "--output=x", "^HEAD", "HEAD^", "main..fix", "HEAD:src",
            "main:src/flow.py", "@{upstream}", "\n", "a\0b", "\udcff", "; touch x", "$(touch x)", "../x",
        ],
    )  # fmt: skip
    def test_what_names_no_commit(self, repository, releases, ref):
        with pytest.raises(NotFound, match="There is no commit, branch or tag") as caught:
            lay_out(f"git:{ref}", repository, releases)
        assert caught.value.hint
        assert list(releases.iterdir()) == []
        assert not (repository / "x").exists()

    @settings(
        derandomize=True, database=None, deadline=None, max_examples=25,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )  # fmt: skip
    @given(st.text(st.characters(exclude_categories=[]), min_size=1, max_size=12))
    def test_any_text_is_a_commit_or_refused(self, repository, releases, ref):
        try:
            code = lay_out(f"git:{ref}", repository, releases)
        except NotFound:
            return
        assert code.name.removeprefix("git:") in git(repository, "rev-list", "--all")

    def test_an_interrupted_checkout_is_made_anew(self, repository, releases):
        code = lay_out("git:fix", repository, releases)
        (releases / f"{Path(code.root).name}.ready").unlink()
        (Path(code.root) / "src/flow.py").write_text("half")
        (Path(code.root) / "left over").touch()
        again = lay_out("git:fix", repository, releases)
        assert text_of(again) == "two"
        assert not (Path(again.root) / "left over").exists()

    def test_a_checkout_that_was_killed_while_git_held_its_lock(self, repository, releases):
        code = lay_out("git:fix", repository, releases)
        (releases / f"{Path(code.root).name}.ready").unlink()
        (repository / ".git/worktrees" / Path(code.root).name / "locked").write_text("initializing")
        assert text_of(lay_out("git:fix", repository, releases)) == "two"

    def test_a_release_that_was_deleted_is_made_anew(self, repository, releases):
        import shutil

        code = lay_out("git:fix", repository, releases)
        shutil.rmtree(code.root)
        assert text_of(lay_out("git:fix", repository, releases)) == "two"

    def test_it_works_inside_a_hook_of_another_repository(self, repository, releases, monkeypatch, tmp_path):
        other = tmp_path / "other"
        other.mkdir()
        git(other, "init", "--quiet")
        monkeypatch.setenv("GIT_DIR", str(other / ".git"))
        monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git/index"))
        assert text_of(lay_out("git:fix", repository, releases)) == "two"
        assert text_of(lay_out(".", repository, releases)) == "one"

    def test_no_repository(self, tmp_path):
        with pytest.raises(ConfigurationError, match=r"git rev-parse failed in .*") as caught:
            lay_out("git:main", tmp_path, tmp_path / "releases")
        assert "git init" in caught.value.hint

    def test_no_git(self, repository, releases, monkeypatch, tmp_path):
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(ConfigurationError, match="git is not installed"):
            lay_out("git:main", repository, releases)
        assert name_of_working_tree(repository) == "tree"


@pytest.mark.parametrize("spec", ["", "main", "git", "git:", "tree:1", "./x", "GIT:main"])
def test_neither_commit_nor_working_tree(repository, releases, spec):
    with pytest.raises(ConfigurationError, match="neither a git reference nor the working tree") as caught:
        lay_out(spec, repository, releases)
    assert "git:BRANCH" in caught.value.hint


def contents(code: Code) -> dict[str, str]:
    root = Path(code.root)
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


class TestWorkingTree:
    def test_what_git_tracks_or_would_track(self, repository, releases):
        write(repository, src__flow_py="edited", src__new_py="new", secret="no", build__out="no")
        (repository / ".gitignore").write_text("secret\nbuild/\n")
        (repository / "src" / "gone.py").write_text("x")
        git(repository, "add", "src/gone.py")
        (repository / "src" / "gone.py").unlink()
        code = lay_out(".", repository, releases)
        assert contents(code) == {
            ".gitignore": "secret\nbuild/\n",
            "src/flow.py": "edited",
            "src/new.py": "new",
        }
        assert code.label == "working tree"
        assert Path(code.root).is_relative_to(releases)

    def test_only_the_project_of_a_larger_repository(self, repository):
        project = repository / "teams" / "shop"
        write(project, src__flow_py="shop")
        code = lay_out(".", project, project / ".sidestage" / "releases")
        assert contents(code) == {"src/flow.py": "shop"}

    def test_without_a_repository_all_but_hidden_and_cached_files(self, tmp_path):
        root = tmp_path / "plain"
        write(root, src__flow_py="code", sidestage_toml="x")
        write(root, **{".env": "no", ".venv/x": "no", "src/__pycache__/x.pyc": "no", "state/lake/a": "no"})
        write(root, **{"node_modules/x": "no", "src/.hidden": "no"})
        (root / "state" / ".gitignore").write_text("*\n")
        code = lay_out(".", root, root / "state" / "releases")
        assert contents(code) == {"src/flow.py": "code", "sidestage_toml": "x"}

    def test_a_project_that_its_repository_ignores(self, repository):
        (repository / ".gitignore").write_text("scratch/\n")
        project = repository / "scratch" / "demo"
        write(project, src__flow_py="demo")
        assert contents(lay_out(".", project, project / ".sidestage" / "releases")) == {"src/flow.py": "demo"}

    def test_the_same_content_has_the_same_name(self, repository, releases):
        first = lay_out(".", repository, releases)
        os.utime(repository / "src/flow.py", (1, 1))
        assert lay_out(".", repository, releases) == first
        write(repository, src__flow_py="edited")
        second = lay_out(".", repository, releases)
        assert second.name != first.name
        assert contents(first) == {"src/flow.py": "one"}
        write(repository, src__flow_py="one")
        assert lay_out(".", repository, releases) == first
        git(repository, "mv", "src/flow.py", "src/moved.py")
        assert lay_out(".", repository, releases).name not in (first.name, second.name)

    def test_names_and_contents_cannot_be_mixed_up(self, tmp_path):
        names = set()
        for number, files in enumerate([{"a": "bc"}, {"ab": "c"}, {"a": "b", "c": ""}, {"a": "", "b": "c"}]):
            write(tmp_path / str(number), **files)
            names.add(lay_out(".", tmp_path / str(number), tmp_path / "releases").name)
        assert len(names) == 4

    def test_a_file_name_that_is_no_text(self, repository, releases):
        (repository / os.fsdecode(b"caf\xe9.txt")).write_text("x")
        code = lay_out(".", repository, releases)
        assert (Path(code.root) / os.fsdecode(b"caf\xe9.txt")).read_text() == "x"

    def test_what_an_interrupted_copy_left_does_no_harm(self, repository, releases):
        code = lay_out(".", repository, releases)
        (releases / "unfinished-x").mkdir()
        Path(code.root).rename(releases / "unfinished-x" / "tree")
        assert contents(lay_out(".", repository, releases)) == {"src/flow.py": "one"}

    def test_a_file_that_changes_while_it_is_copied(self, repository, releases, monkeypatch):
        import shutil

        real = shutil.copy2

        def edit_then_copy(source, target):
            Path(source).write_text("edited meanwhile")
            return real(source, target)

        monkeypatch.setattr(shutil, "copy2", edit_then_copy)
        code = lay_out(".", repository, releases)
        monkeypatch.undo()
        assert contents(code) == {"src/flow.py": "edited meanwhile"}
        assert lay_out(".", repository, releases) == code
        assert [entry.name for entry in releases.iterdir()] == [Path(code.root).name]


class TestNames:
    def test_the_commit_and_whether_it_was_changed(self, repository):
        head = git(repository, "rev-parse", "HEAD")
        assert name_of_working_tree(repository) == f"git:{head}"
        write(repository, src__flow_py="edited")
        assert name_of_working_tree(repository) == f"git:{head}+changes"

    def test_changes_elsewhere_in_the_repository_do_not_count(self, repository):
        project = repository / "shop"
        write(project, src__flow_py="shop")
        head = commit(repository)
        write(repository, src__flow_py="edited")
        assert name_of_working_tree(project) == f"git:{head}"

    def test_no_commit_and_no_repository(self, tmp_path):
        assert name_of_working_tree(tmp_path) == "tree"
        git(tmp_path, "init", "--quiet")
        assert name_of_working_tree(tmp_path) == "tree"
