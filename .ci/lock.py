"""Write the two lock files: the installed versions of what `pyproject.toml` asks for.

`requirements.lock` has what the package itself needs, directly or through another package;
`requirements-dev.lock` adds what its extra `dev` needs, which names most of the others: not those
of clusters. Requirements that hold on another platform or Python alone are left out, and so are the
CUDA packages of a torch for GPUs, which pip adds where it installs one.
"""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
MAIN, DEV = "requirements.lock", "requirements-dev.lock"
OF_CUDA = re.compile("nvidia-|cuda-|triton")
HEADS = {
    MAIN: "# What SEUF is tested with, without its extras; `make lock` writes this file anew.\n",
    DEV: f"# What extras and tests need as well; `make lock` writes this file anew.\n-r {MAIN}\n",
}


def lock_files() -> dict[str, str]:
    """Return the text of each lock file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras, own = project["optional-dependencies"], f"{project['name']}["
    named = next(line for line in extras["dev"] if line.startswith(own))
    asked = ["dev", *named.removeprefix(own).removesuffix("]").split(",")]
    extras = [line for one in asked for line in extras[one] if line != named]
    main = installed_versions(project["dependencies"])
    dev = installed_versions(project["dependencies"] + extras)
    lines = {MAIN: main.items(), DEV: sorted(dev.items() - main.items())}
    return {
        name: HEADS[name] + "".join(f"{package}=={version}\n" for package, version in pinned)
        for name, pinned in lines.items()
    }


def installed_versions(requirements: list[str]) -> dict[str, str]:
    """Return the version of each package that these requirements lead to, by name.

    Raises:
        PackageNotFoundError: If one of them is not installed.
    """
    versions: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(Requirement(line), "") for line in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        if OF_CUDA.match(requirement.name):
            continue
        package = distribution(requirement.name)
        name = canonicalize_name(requirement.name)
        versions[name] = package.version.partition("+")[0]  # torch: 2.13.0+cpu
        for asked in {"", *requirement.extras} - {e for n, e in seen if n == name}:
            seen.add((name, asked))
            waiting += [(Requirement(line), asked) for line in package.requires or []]
    return dict(sorted(versions.items()))


if __name__ == "__main__":
    for file, text in lock_files().items():
        (ROOT / file).write_text(text, encoding="utf-8")
