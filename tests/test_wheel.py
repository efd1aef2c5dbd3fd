"""The wheel holds both packages, with the files that stand beside their code."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PIP_WHEEL = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")


@pytest.mark.slow
def test_the_wheel_has_every_file_of_the_source_and_no_other(tmp_path):
    """It is built from a copy: pip would leave a folder `build` here, and find it the next time."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.check_output(
        [*listed, "src", "pyproject.toml", "README.md", "LICENSE"], cwd=ROOT, text=True
    ).splitlines()
    for name in filter(Path.exists, map(ROOT.joinpath, files)):
        copy = tmp_path / "project" / name.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(name, copy)

    subprocess.run([*PIP_WHEEL, "--wheel-dir", tmp_path, tmp_path / "project"], check=True)

    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    source = {name.removeprefix("src/") for name in files if (ROOT / name).exists()}
    assert {"kedro_dvc/cli.py", "seuf/cli.py"} <= packed
    assert packed == source - {"pyproject.toml", "README.md", "LICENSE"}
