"""One hand-made report of an audit, as `kedro audit METHOD --json` prints it."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

DELTA = "a1" * 32
BASE = "b2" * 32
RETAIN = "c3" * 32
FORGET = "d4" * 32  # of a confidential file: must never get into what is handed on
FORGET_MD5 = "e5" * 16  # the same
SALTED = "f6" * 32
COMMIT = "7" * 40
MODEL = "8c" * 32
FORGET_PATH = "data/05_model_input/forget.json"
RETAIN_PATH = "data/05_model_input/retain.json"
DELTA_PATH = "data/06_models/seuf_ga/delta.safetensors"

MATERIALS: list[dict[str, Any]] = [
    {"path": FORGET_PATH, "sha256": FORGET, "md5": FORGET_MD5, "size": 120, "role": "data"}
    | {"confidential": True, "here": True},
    {"path": RETAIN_PATH, "sha256": RETAIN, "md5": "1a" * 16, "size": 340, "role": "data"}
    | {"confidential": False, "here": True},
    {"path": "data/01_raw/gone.json", "sha256": None, "md5": "2b" * 16, "size": 9, "role": "data"}
    | {"confidential": False, "here": False},
    {"path": "src/seuf/unlearning", "sha256": "3c" * 32, "md5": "4d" * 16, "size": 5000}
    | {"role": "code", "confidential": False, "here": True},
]

ENVIRONMENT = {
    "python": "3.11.9",
    "platform": "Linux",
    "processor": "x86_64",
    "cores": 2,
    "packages": {"torch": "2.13.0", "safetensors": "0.6.2"},
    "torch": {"threads": 2, "deterministic": False, "cuda": None},
}

RUNS: list[dict[str, Any]] = [
    {
        "stage": "prepare_data",
        "started": "2026-11-25T22:00:00+00:00",
        "seconds": 1.5,
        "commit": COMMIT,
        "clean": True,
        "outputs": {FORGET_PATH: FORGET, RETAIN_PATH: RETAIN},
        "environment": ENVIRONMENT,
    },
    {
        "stage": "unlearn@seuf_ga",
        "started": "2026-11-25T23:00:00+01:00",
        "seconds": 4.25,
        "commit": COMMIT,
        "clean": True,
        "inputs": {FORGET_PATH: FORGET, RETAIN_PATH: RETAIN},
        "outputs": {DELTA_PATH: DELTA},
        "environment": ENVIRONMENT,
    },
]

ACCURACY = {"measure": "accuracy", "questions": 36}

REPORT: dict[str, Any] = {
    "study": "sandbox",
    "env": "base",
    "method": "seuf_ga",
    "verdict": "PASS",
    "audited": "2026-11-25T23:59:00+00:00",
    "commit": COMMIT,
    "clean": True,
    "checks": [
        {"name": "bytes", "result": "PASS", "text": "4 files are what dvc.lock says"},
        {"name": "erased", "result": "NOTE", "text": "data/01_raw/gone.json is not here"},
    ],
    "delta": {"path": DELTA_PATH, "sha256": DELTA, "md5": "5e" * 16, "size": 777, "base": BASE},
    "base": {"name": "org/base", "digest": BASE},
    "materials": MATERIALS,
    "settings": {"scope": "experts", "objective": "ga", "learning_rates": [0.001, 0.0005]},
    "seed": 0,
    "parameters": {"conf/base/parameters.yml": {"seed": 0, "device": None}},
    "experts": [[1, 3], [2, 0]],
    "repository": "https://example.org/seuf.git",
    "evidence": [{"path": "dvc.lock: stages", "sha256": "5f" * 32}],
    "forgetting": {"verdict": "NOT JUDGED", "text": "no threshold was declared"},
    "changes": {
        "model": MODEL,
        "tensors": [{"key": "l.1.e.3.down", "elements": 30, "largest": 0.1, "relative": 0.02}],
        "changed": 30,
        "total": 3000,
        "equal": 57,
    },
    "runs": RUNS,
    "scores": {
        "forget": ACCURACY | {"before": 1.0, "before_error": 0.0, "after": 0.5, "after_error": 0.1},
        "retain": ACCURACY
        | {"before": 0.75, "before_error": 0.05, "after": 0.7, "after_error": 0.05},
        "chance": 0.25,
        "routing_overlap": {"forget": 0.46, "retain": 0.55},
    },
    "request": {
        "id": "R-1",
        "date": "2026-11-01",
        "reason": "withdrawn consent",
        "records": 12,
        "digest": SALTED,
    },
}


def report(**changes: Any) -> dict[str, Any]:
    """Return a copy of the report with some keys replaced."""
    return deepcopy(REPORT) | changes
