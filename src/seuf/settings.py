"""Kedro's project settings."""

import warnings

from kedro_dvc.configuration import StudyConfigLoader
from kedro_dvc.records import RunRecords
from kedro_dvc.run_status import RunStatus
from kedro_dvc.safety import SafeOutputs, SharingCatalog
from seuf.determinism import torch_facts
from seuf.hooks import StudyHooks, folders
from seuf.mlflow_run import MlflowRun

HOOKS = (StudyHooks(), SafeOutputs(), RunStatus(), RunRecords(torch_facts), MlflowRun())
# RunStatus is in kedro-viz's place, MlflowRun in kedro-mlflow's
DISABLE_HOOKS_FOR_PLUGINS = ("kedro-telemetry", "kedro-viz", "kedro_mlflow")

DATA_CATALOG_CLASS = SharingCatalog
CONFIG_LOADER_CLASS = StudyConfigLoader
# A study says what differs from base, at any depth. There is no conf/local: an override that is in
# no commit would be a hole in the lineage.
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "base",
    "merge_strategy": {"parameters": "soft"},
    # what DVC watches of a data set or model that is a hub id or a folder
    "custom_resolvers": {"folders": folders},
}

# Data sets of a namespace carry a dot by Kedro's own rule, and are read outside it on purpose.
warnings.filterwarnings("ignore", message="One or more dataset names contain")
warnings.filterwarnings("ignore", message="Namespace .* is interrupted")
