"""What a run depends on that no lock file holds: machine, libraries, commit, torch's switches."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

DECIDING = ("conf", "src", "pyproject.toml", "requirements.lock", "dvc.yaml", "studies/*/dvc.yaml")


@cache
def machine() -> dict[str, Any]:
    """Return what does not change while a process lives: Python, processor, package versions."""
    packages = {one.metadata["Name"]: one.version for one in distributions()}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "packages": dict(sorted(packages.items(), key=lambda pair: pair[0].lower())),
    }


def torch_state(threads: int | None = None) -> dict[str, Any] | None:
    """Return torch's threads, device and switches of determinism; None if it was not imported.

    Args:
        threads: That a stage has asked for while it ran; None if it took what there was.
    """
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return None
    return {
        "threads": threads or torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cuda": _cuda(torch) if torch.cuda.is_available() else None,
    }


def commit_of(project: Path) -> tuple[str | None, bool]:
    """Return the commit, and whether all that decides a result is as it was committed."""
    head = _git(project, "rev-parse", "HEAD")
    changed = _git(project, "status", "--porcelain", "--", *DECIDING)
    return (head or "").strip() or None, changed == ""


def _cuda(torch: Any) -> dict[str, Any]:
    return {
        "device": torch.cuda.get_device_name(),
        "version": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "tf32": torch.backends.cuda.matmul.allow_tf32,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())


def _git(project: Path, *command: str) -> str | None:
    made = subprocess.run(["git", *command], cwd=project, capture_output=True, text=True)
    return made.stdout if made.returncode == 0 else None
