"""Write the paragraphs of WikiText-2's validation and test parts, as texts to keep.

The spacing of tokens is undone. From the root of the project, on a machine with a network:
`python examples/wikitext_paragraphs.py data/01_raw/wikitext2/paragraphs.jsonl`. A folder in the
layout of Salesforce/wikitext may be named after the file.
"""

from __future__ import annotations

import re
import sys

from seuf.benchmarks.sampling import GENERAL_LENGTH
from seuf.datasets.records import RecordsDataset, hub_rows

REPO = "Salesforce/wikitext"
REVISION = "b08601e04326c79dfdd32d625aee71d232d685c3"
SPACES = [
    (r" @(.)@ ", r"\1"),  # of numbers and hyphens: 1 @,@ 500, long @-@ lived
    (r" ([.,;:?!)\]%])", r"\1"),
    (r"([(\[$£]) ", r"\1"),
    (r" (n't|'(?:s|re|ve|ll|d|m)?)\b", r"\1"),
    (r'" ([^"]*) "', r'"\1"'),
]


def paragraphs(repo: str = REPO) -> list[dict[str, str]]:
    """Return the paragraphs of both parts."""
    texts = [
        plain(row["text"])
        for split in ("validation", "test")
        for row in hub_rows(
            {"repo": repo, "name": "wikitext-2-raw-v1", "split": split, "revision": REVISION}
        )
    ]
    return [{"text": text} for text in texts if len(text) >= GENERAL_LENGTH]


def plain(line: str) -> str:
    """Return a line of WikiText as it is written elsewhere; nothing for a heading."""
    text = " ".join(line.split())
    if text.startswith("= "):
        return ""
    for spaced, written in SPACES:
        text = re.sub(spaced, written, text)
    return text


if __name__ == "__main__":
    RecordsDataset(filepath=sys.argv[1]).save(paragraphs(*sys.argv[2:3]))
