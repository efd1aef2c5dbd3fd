"""What the package imports is what it asks for, and the lock files hold all of it."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
# Triton comes with torch for GPUs; the others are extras: an executor each, and MLflow.
TRITON = {"triton"}
OPTIONAL = {"ray", "submitit", "kedro-mlflow", "mlflow"}
# The first makes DVC faster, the second completes model-signing.
NOT_IMPORTED = {"ruamel-yaml-clib", "pyopenssl"}
IMPORTS_OF = """
import sys
sys.modules.update(dict.fromkeys({packages}))  # None: an import of it fails
from kedro.framework.startup import bootstrap_project
from pathlib import Path
bootstrap_project(Path.cwd())
import kedro_dvc.cli, seuf.cli, seuf.hooks, seuf.pipeline_registry
seuf.pipeline_registry.register_pipelines()
"""


def test_every_package_that_is_imported_is_a_dependency_or_what_one_brings():
    """Those of the extra `audit` are imported in the room of that name and nowhere else."""
    main, audit = _brought(_named(PROJECT["dependencies"])), _brought(_named(EXTRAS["audit"]))
    in_audit = set((SOURCE / "seuf/audit").rglob("*.py"))
    elsewhere = set(SOURCE.rglob("*.py")) - in_audit

    assert sorted(_used(elsewhere) - main - TRITON - OPTIONAL) == []
    assert sorted(_used(in_audit) - main - audit) == []


def test_every_dependency_is_imported_somewhere():
    declared = _named(PROJECT["dependencies"] + EXTRAS["audit"])

    assert declared - _used(SOURCE.rglob("*.py")) == NOT_IMPORTED


def test_a_user_is_asked_for_sixteen_packages_at_most():
    assert len(PROJECT["dependencies"]) <= 16


def test_the_commands_and_pipelines_load_without_the_packages_of_any_extra():
    extras = _named(line for name, lines in EXTRAS.items() if name != "dev" for line in lines)
    modules = [name for name, dists in packages_distributions().items() if extras & _plain(dists)]
    assert {"model_signing", "kedro_viz", "dvc_s3", "gguf"} <= {*modules}

    code = IMPORTS_OF.format(packages=modules)
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)

    assert ended.returncode == 0, ended.stderr


def test_a_lock_names_what_its_requirements_lead_to():
    """If it fails, give `make lock`."""
    expected = runpy.run_path(str(ROOT / ".ci/lock.py"))["lock_files"]()

    assert expected.keys() == {"requirements.lock", "requirements-dev.lock"}
    for name, text in expected.items():
        assert _locked((ROOT / name).read_text(encoding="utf-8")) == _locked(text)


def test_the_cuda_packages_of_a_torch_for_gpus_are_no_part_of_a_lock(monkeypatch):
    """So that a lock is the same wherever it is written."""
    installed_versions = runpy.run_path(str(ROOT / ".ci/lock.py"))["installed_versions"]
    of_torch = ["filelock", "triton==3.7.1; python_version < '3.99'", "cuda-toolkit[nvrtc]==13.0.3"]
    installed = {
        "torch": SimpleNamespace(version="2.13.0+cu130", requires=of_torch),
        "filelock": SimpleNamespace(version="3.29.0", requires=None),
    }
    monkeypatch.setitem(installed_versions.__globals__, "distribution", installed.__getitem__)

    assert installed_versions(["torch>=2.10"]) == {"filelock": "3.29.0", "torch": "2.13.0"}


def _used(files: Iterable[Path]) -> set[str]:
    """Return the packages of all imports in these files, also of those inside functions."""
    names = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(str(node.module).partition(".")[0])
    names -= {*sys.stdlib_module_names, "seuf", "kedro_dvc"}
    found = packages_distributions()
    return {dist for name in names for dist in _plain(found.get(name, [name]))}


def _brought(declared: set[str]) -> set[str]:
    """Return these packages and what each requires in any case, without its extras."""
    lines = [line for package in declared for line in requires(package) or []]
    return declared | _named(line for line in lines if "extra ==" not in line)


def _named(requirements: Iterable[str]) -> set[str]:
    """Return the names at the beginning of lines such as `moto[s3]>=5.1`."""
    return _plain(re.split(r"[^\w.-]", line)[0] for line in requirements)


def _locked(text: str) -> set[str]:
    return {line.partition("==")[0] for line in text.splitlines() if not line.startswith("#")}


def _plain(names: Iterable[str]) -> set[str]:
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names}
