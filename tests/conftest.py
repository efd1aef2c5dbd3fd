"""What all tests share: nothing asks the network, git knows who commits, the long ones begin."""

from __future__ import annotations

import os

import pytest

import seuf  # noqa: F401 - sets OMP_WAIT_POLICY, which torch reads when it is imported

os.environ.setdefault("HF_HUB_OFFLINE", "1")

# What a shell may have set: a study, switches, and a proxy that does not know our own servers.
for name in ("KEDRO_ENV", "SEUF_DETERMINISTIC", "SEUF_WORKERS"):
    os.environ.pop(name, None)
for name in ("NO_PROXY", "no_proxy"):
    os.environ[name] = ",".join(filter(None, ["127.0.0.1,localhost", os.environ.get(name)]))

# Over what this machine's git is told: it may know nobody, or sign with a key that is not here.
GIT = {"user.name": "n", "user.email": "n@n", "commit.gpgSign": "false", "tag.gpgSign": "false"}
for number, (key, value) in enumerate(GIT.items(), int(os.environ.get("GIT_CONFIG_COUNT", "0"))):
    named = {"COUNT": str(number + 1), f"KEY_{number}": key, f"VALUE_{number}": value}
    os.environ.update({f"GIT_CONFIG_{name}": text for name, text in named.items()})

# By file or folder, those first that others wait for; none of these is left for the end.
FIRST = (
    *("test_smoke_study", "test_hub_studies", "test_spaceflights", "test_parallel"),
    *("workflow", "test_conformance", "tests/unlearning", "test_sync"),
)


def pytest_configure(config: pytest.Config) -> None:
    """Import torch where tests run: the process that hands them out need not wait for it."""
    hands_out = config.getoption("numprocesses", None) and not hasattr(config, "workerinput")
    if not hands_out:
        config.pluginmanager.import_plugin("tests.fixtures")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long ones, so that no process is left with one at the end.

    While one process runs the smoke study, which all tests of the workflow wait for, the other has
    files that do not.
    """

    def place(item: pytest.Item) -> int:
        file = item.nodeid.partition("::")[0]
        return next((i for i, part in enumerate(FIRST) if part in file), len(FIRST))

    items.sort(key=place)
