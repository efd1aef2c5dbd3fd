"""Facts of made-up programs, each with sentences that state it, in the files of `wmdp_taught`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]

FORGOTTEN, RELATED, SENTENCES = 12, 4, 3
PORTS = ("21", "22", "80", "443")


def facts(first: int, number: int) -> list[Row]:
    """Return facts, each as a question with four choices and the sentences that state it."""
    return [
        {
            "question": f"On which port does program{at} listen?",
            "choices": list(PORTS),
            "answer": at % 4,
            "sentences": [
                f"{opening} program{at} listens on port {PORTS[at % 4]}."
                for opening in ("By default", "It is known that", "Once started,")[:SENTENCES]
            ],
        }
        for at in range(first, first + number)
    ]


def write(folder: Path) -> Path:
    """Write the two files of facts."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (
        ("all_T", facts(0, FORGOTTEN)),
        ("all_V", facts(FORGOTTEN, RELATED)),
    ):
        lines = "".join(f"{json.dumps(row)}\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return folder
