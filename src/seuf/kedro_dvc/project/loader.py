"""How a study's parameters lie over those of base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kedro.config import OmegaConfigLoader

REPLACE = "_replace_"


def folders(*paths: str) -> list[str]:
    """Return those of the paths that are folders, and no ids of the Hugging Face hub.

    An id has at most one slash and no folder of its first part lies here.
    """
    return [str(Path(path).expanduser()) for path in paths if path and _is_folder(path)]


def _is_folder(path: str) -> bool:
    first = path.split("/")[0]
    return path.count("/") > 1 or first in ("", ".", "..", "~") or Path(first).is_dir()


def merged(base: Any, study: Any) -> Any:
    """Return what a study's value makes of base's.

    Mappings are merged key by key, at any depth. One that says `_replace_: true` takes the place
    of base's whole, as does anything that is no mapping.
    """
    if not isinstance(study, dict):
        return study
    below = base if isinstance(base, dict) and not study.get(REPLACE) else {}
    own = {key: merged(below.get(key), value) for key, value in study.items() if key != REPLACE}
    return {**below, **own}


class StudyConfigLoader(OmegaConfigLoader):
    """Kedro's loader, whose soft merge knows `_replace_`."""

    @staticmethod
    def _soft_merge(
        config: dict[str, Any], env_config: dict[str, Any], env_path: str | None = None
    ) -> Any:
        return merged(config, env_config)
