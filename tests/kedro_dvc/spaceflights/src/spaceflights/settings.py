"""Kedro's project settings."""

from kedro_dvc.configuration import StudyConfigLoader
from kedro_dvc.records import RunRecords
from kedro_dvc.run_status import RunStatus
from kedro_dvc.safety import SafeOutputs, SharingCatalog

HOOKS = (SafeOutputs(), RunStatus(), RunRecords())
DISABLE_HOOKS_FOR_PLUGINS = ("kedro-viz",)  # RunStatus is in its place
DATA_CATALOG_CLASS = SharingCatalog
CONFIG_LOADER_CLASS = StudyConfigLoader
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "base",
    "merge_strategy": {"parameters": "soft"},
}
