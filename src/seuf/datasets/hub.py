"""Data sets of the Hugging Face hub, and folders that are laid out like one."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from seuf.errors import InputError
from seuf.moe.fetching import commit_of, fetched, may_change
from seuf.moe.loading_errors import clear_errors
from seuf.moe.wanted import Wanted

CARD = "README.md"
logger = logging.getLogger(__name__)


def hub_rows(arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of one split of one configuration.

    The files are fetched first, those of the configuration alone where the card names them; they
    are then read as those of any folder, which needs no network.

    Args:
        arguments: Of `datasets.load_dataset`, but for `repo`, a hub id or a folder, in the place of
            its `path`: Kedro makes that absolute wherever it stands in a catalog.

    Raises:
        InputError: If there is no such data set, or it cannot be had or read.
    """
    told = dict(arguments)
    repo, revision, token = (told.pop(key, None) for key in ("repo", "revision", "token"))
    wanted = Wanted(repo, revision, "dataset", token)
    folder = fetched(wanted, [CARD])
    commit = commit_of(wanted, folder)
    if warning := may_change(wanted, commit, "`revision` in the catalog"):
        logger.warning(warning)
    fetched(replace(wanted, revision=commit), _files(wanted, folder, told))
    return _read(wanted, folder, told)


def _read(wanted: Wanted, folder: Path, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    from datasets import disable_progress_bars, load_dataset

    if not sys.stderr.isatty():  # a log needs no bars
        disable_progress_bars()
    with clear_errors(wanted):
        rows = load_dataset(str(folder), **arguments)
        if isinstance(rows, Mapping):
            raise ValueError(f"it has the splits {', '.join(rows)}: name one as `split`.")
        return [dict(row) for row in rows]


def _files(wanted: Wanted, folder: Path, arguments: Mapping[str, Any]) -> list[str] | None:
    """Return patterns of the files that are needed; None for all."""
    if "data_dir" in arguments:
        return None
    named = arguments.get("data_files") or _of_card(wanted, folder, arguments.get("name"))
    patterns = list(_patterns(named))
    # `**/` also stands for no folder at all, but not here
    return [CARD, *patterns, *(p.replace("**/", "") for p in patterns)] if patterns else None


def _of_card(wanted: Wanted, folder: Path, name: str | None) -> Any:
    """Return the files of a configuration, or of the default one, as the card has them."""
    known = {one.get("config_name", "default"): one for one in _configurations(folder)}
    defaults = [key for key, one in known.items() if one.get("default") or len(known) == 1]
    chosen = name or next(iter(defaults), "default")
    if known and chosen not in known:
        raise InputError(
            f"The {wanted.name} has the configurations {', '.join(known)}: set `name` to one of "
            f"them{f', not {name}' if name else ''}."
        )
    return known.get(chosen, {}).get("data_files")


def _configurations(folder: Path) -> list[dict[str, Any]]:
    from huggingface_hub import DatasetCard

    if not (folder / CARD).is_file():
        return []
    return DatasetCard.load(folder / CARD).data.to_dict().get("configs") or []


def _patterns(named: Any) -> Iterator[str]:
    """Yield every pattern in what a card or a user names: a path, paths, or paths of splits."""
    if isinstance(named, str):
        yield named
    elif isinstance(named, Mapping):
        yield from _patterns(named["path"] if "path" in named else list(named.values()))
    else:
        for one in named or []:
            yield from _patterns(one)
