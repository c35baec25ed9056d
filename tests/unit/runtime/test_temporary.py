"""Folders of temporary files are emptied and removed, whatever was done to them."""

import os
import subprocess
import sys

import pytest

from sidestage.runtime.temporary import empty, remove


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "temporary"
    (made / "deep" / "deeper").mkdir(parents=True)
    (made / "deep" / "file").write_text("x")
    (made / "link").symlink_to(tmp_path)
    os.mkfifo(made / "pipe")
    (tmp_path / "kept").touch()
    return made


def test_all_that_is_in_it_goes_and_what_links_lead_to_stays(folder, tmp_path):
    empty(folder)
    assert list(folder.iterdir()) == []
    empty(folder)
    remove(folder)
    remove(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_it_is_there_again_if_it_was_removed_or_replaced(folder, tmp_path):
    remove(folder)
    empty(folder)
    assert list(folder.iterdir()) == []
    folder.rmdir()
    folder.write_text("a file")
    empty(folder)
    assert list(folder.iterdir()) == []
    folder.rmdir()
    folder.symlink_to(tmp_path)
    empty(folder)
    assert not folder.is_symlink()
    assert list(folder.iterdir()) == []
    assert (tmp_path / "kept").exists()


def test_rights_that_were_taken_away_are_taken_back(folder):
    (folder / "deep").chmod(0)
    folder.chmod(0)
    empty(folder)
    assert list(folder.iterdir()) == []


def test_deeper_than_a_path_can_be(folder):
    code = "import os\nfor _ in range(2000): os.mkdir('deep'); os.chdir('deep')"
    subprocess.run([sys.executable, "-c", code], cwd=folder / "deep" / "deeper", check=True)
    empty(folder)
    assert list(folder.iterdir()) == []
