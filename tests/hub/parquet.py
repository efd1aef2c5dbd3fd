"""A data set's repository of parquet files, as `push_to_hub` lays it out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from datasets import Dataset, Features

Rows = list[dict[str, Any]]


def write(
    folder: Path,
    configs: Mapping[str, Mapping[str, Rows]],
    features: Features | None = None,
    within: str = "{config}",
    shards: int = 1,
) -> Path:
    """Return the folder, with a file for each shard and a README.md that names them.

    Args:
        folder: Where to write.
        configs: Rows by configuration and split.
        features: Columns and their types; by default those of the rows.
        within: Where in the folder a configuration's files are.
        shards: Files a split.
    """
    card = []
    for config, splits in configs.items():
        place = within.format(config=config)
        for split, rows in splits.items():
            whole = Dataset.from_list(rows, features=features)
            for index in range(shards):
                path = folder / place / f"{split}-{index:05}-of-{shards:05}.parquet"
                path.parent.mkdir(parents=True, exist_ok=True)
                whole.shard(shards, index, contiguous=True).to_parquet(path)
        files = [{"split": split, "path": f"{place}/{split}-*"} for split in splits]
        card.append({"config_name": config, "data_files": files})
    front = yaml.safe_dump({"license": "mit", "configs": card}, sort_keys=False)
    (folder / "README.md").write_text(f"---\n{front}---\n\n# Made up\n", encoding="utf-8")
    return folder
