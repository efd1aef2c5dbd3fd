"""The first-party source files that a module can run."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import grimp
from kedro.framework import project as kedro_project


def source_files(modules: Iterable[str]) -> list[str]:
    """Return the files of the modules and of all they import, from the project's root.

    Imports inside functions count, those under `TYPE_CHECKING` do not. The `__init__.py` of a
    parent package counts only if it is imported by name.

    Args:
        modules: Modules; those of other packages are passed over.
    """
    ours = {module for module in modules if module.partition(".")[0] == package()}
    return sorted(source_file(module) for module in ours.union(*map(_imported_by, ours)))


def wiring_files(modules: Iterable[str], functions: Iterable[str]) -> set[str]:
    """Return the files of the modules that wire nodes, and of all they import.

    The modules that hold the nodes' functions are not entered: what they do is no wiring.
    """
    ahead, found = set(modules), set()
    while ahead:
        found |= ahead
        imported = set().union(*map(_graph().find_modules_directly_imported_by, ahead))
        ahead = imported - found - set(functions)
    return set(map(source_file, found))


def source_file(module: str) -> str:
    """Return the file of a first-party module, from the project's root."""
    path = Path("src", *module.split("."))
    return str(path / "__init__.py" if _graph().find_children(module) else f"{path}.py")


def package() -> str:
    """Return the name of the project's package."""
    name = kedro_project.PACKAGE_NAME
    assert name is not None  # Kedro has found the project
    return name


@cache
def _graph() -> grimp.ImportGraph:
    return grimp.build_graph(package(), exclude_type_checking_imports=True, cache_dir=None)


@cache
def _imported_by(module: str) -> set[str]:
    return _graph().find_upstream_modules(module)
