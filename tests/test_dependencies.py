"""What the package imports is what it asks for."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path

ROOT = Path(__file__).parents[1]
# kedro-viz is the extra `viz`, triton comes with torch for GPUs; both are missed without harm.
OPTIONAL = {"kedro-viz", "triton"}


def test_every_package_that_is_imported_is_a_dependency_or_what_one_brings():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = set(map(_name, project["dependencies"]))
    brought = {_name(line) for package in declared for line in _required_by(package)}
    found = packages_distributions()

    used = {_plain(dist) for name in _imported() for dist in found.get(name, [name])}

    assert sorted(used - declared - brought - OPTIONAL) == []


def _imported() -> set[str]:
    """Return the top-level names of all imports in `src`, also inside functions."""
    names = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(str(node.module).partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"seuf"}


def _required_by(package: str) -> list[str]:
    """Return what comes with a package in any case, without its extras."""
    return [line for line in requires(package) or [] if "extra ==" not in line]


def _name(requirement: str) -> str:
    """Return the name at the beginning of a line such as `moto[s3]>=5.1`."""
    return _plain(re.split(r"[^\w.-]", requirement)[0])


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")
