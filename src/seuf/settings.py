"""Kedro's project settings."""

import warnings

from kedro.config import OmegaConfigLoader

from seuf.hooks import Cleanliness, StudyHooks

HOOKS = (StudyHooks(), Cleanliness())
DISABLE_HOOKS_FOR_PLUGINS = ("kedro-telemetry",)

CONFIG_LOADER_CLASS = OmegaConfigLoader
# A top-level key that a study names is the study's alone: nothing of base's is mixed in. And no
# conf/local: an override that is in no commit would be a hole in the lineage.
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "base",
    "merge_strategy": {"parameters": "destructive"},
}

# Data sets of a namespace carry a dot by Kedro's own rule, and are read outside it on purpose.
warnings.filterwarnings("ignore", message="One or more dataset names contain", module="seuf")
warnings.filterwarnings("ignore", message="Namespace .* is interrupted")
