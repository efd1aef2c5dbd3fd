"""What a study names: a folder, or something on the hub at a revision."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Wanted:
    """Something that a study names.

    Attributes:
        path: A folder, or a hub id.
        revision: Commit, tag or branch of a hub id; None for its newest.
        kind: `model` or `dataset`, as the hub calls them.
        token: Of the hub, if it is not the one that is logged in.
    """

    path: str
    revision: str | None = None
    kind: str = "model"
    token: str | None = None

    @property
    def name(self) -> str:
        """How it is spoken of."""
        return f"{self._kind} {self.path!r}"

    @property
    def at(self) -> str:
        """How it is spoken of where it may not be."""
        return f"{self._kind} at {self.path!r}"

    @property
    def _kind(self) -> str:
        return "data set" if self.kind == "dataset" else self.kind

    @property
    def page(self) -> str:
        """Where the hub shows it."""
        from huggingface_hub import constants

        place = "datasets/" if self.kind == "dataset" else ""
        return f"{constants.ENDPOINT}/{place}{self.path}"

    @property
    def download(self) -> str:
        """The command that puts it into the cache."""
        kind = " --repo-type dataset" if self.kind == "dataset" else ""
        revision = f" --revision {self.revision}" if self.revision else ""
        return f"`hf download {self.path}{kind}{revision}`"
