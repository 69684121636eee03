"""A report names the commit of the code that ran, and says where files differ from it."""

import shutil
import subprocess

import pytest

from dragonfly_lit.io import commits


def git(folder, *words):
    own = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *own, *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed: apt-get install git")
def test_the_commit_is_that_of_the_code_and_changes_are_said(tmp_path, monkeypatch):
    monkeypatch.setattr(commits, "is_clone", lambda: True)
    file = tmp_path / "clone/src/dragonfly_lit/io/commits.py"
    file.parent.mkdir(parents=True)
    file.write_text("code\n")
    monkeypatch.setattr(commits, "__file__", str(file))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert commits.commit_of_clone() is None  # a folder without git
    git(tmp_path / "clone", "init", "-q")
    git(tmp_path / "clone", "add", ".")
    git(tmp_path / "clone", "commit", "-qm", "first")
    head = git(tmp_path / "clone", "rev-parse", "--short=12", "HEAD")
    (tmp_path / "clone/notes.txt").write_text("not of the code\n")
    assert commits.commit_of_clone() == head
    file.write_text("changed\n")
    assert commits.commit_of_clone() == f"{head} with changes"
    monkeypatch.setattr(commits, "is_clone", lambda: False)
    assert commits.commit_of_clone() is None
