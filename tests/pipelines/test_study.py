"""What a pipeline knows of the study that is being run."""

import subprocess

from seuf.pipelines.study import commit


def test_the_commit_is_the_one_checked_out_and_says_if_code_was_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert commit() is None

    def git(*command):
        subprocess.run(["git", *command], check=True, capture_output=True)

    git("init")
    (tmp_path / "src").mkdir()
    (tmp_path / "src/code.py").write_text("")
    git("add", ".")
    git("commit", "--message", "x")
    clean = commit()
    git("config", "status.showUntrackedFiles", "no")
    (tmp_path / "src/more.py").write_text("")
    with_more = commit()
    (tmp_path / "src/more.py").unlink()
    (tmp_path / "src/code.py").write_text("changed")

    assert with_more == f"{clean} with changes"
    assert clean is not None
    assert len(clean) == 10
    assert commit() == f"{clean} with changes"
