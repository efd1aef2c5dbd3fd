"""`kedro plan`: what a study will need, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from seuf.benchmarks.sizes import Sizes, sizes
from seuf.moe.footprint import BACKWARD, Footprint, footprint
from seuf.moe.loading import empty_model
from seuf.moe.settings import ExternalModelSettings, FinetuningSettings
from seuf.pipelines.parameters import BaseModelSettings, StudyParameters
from seuf.unlearning import plan
from seuf.unlearning.needs import Need, waiting
from seuf.unlearning.planned_run import ADAM
from seuf.unlearning.settings import Method, ReplicationSettings

GB = 1e9
PLACES = ("device", "memory", "disk")
QUESTION_TOKENS = 150  # of a question of MMLU with its choices, about


def needs(
    parameters: StudyParameters, globals_: Mapping[str, Any], layer: int | None = None
) -> dict[str, Need]:
    """Return what each stage of a study needs, by name.

    Args:
        parameters: Of the study.
        globals_: Its globals, which name your own files.
        layer: Decoder layer that the selected expert is assumed to be in; by default the first MoE
            layer, where unlearning takes longest. ESFT's experts are in all of them.

    Raises:
        InputError: If there is no model or no file where the study says.
    """
    model = footprint(_empty(parameters.base_model))
    files = {name: Path(str(globals_.get(name))) for name in ("forget", "retain", "questions")}
    size = sizes(parameters.benchmark, files)
    where = model.first_moe if layer is None else layer
    treated = {
        name: plan.treated(model, method, parameters.expert_selection, where)
        for name, method in parameters.methods.items()
    }
    stages = _models(parameters, model) | _capture(parameters, model, size)
    stages |= _unlearning(parameters, model, size, treated)
    stages |= _evaluation(parameters, model, size, treated)
    spread = parameters.replication
    return {name: _times(need, name, spread) for name, need in stages.items()} if spread else stages


def table(stages: Mapping[str, Need], rate: float) -> pd.DataFrame:
    """Return the needs as a table, with the time at a rate in tokens a second; then all together.

    Methods that need the same are one row.
    """
    rows = [_row(name, need, rate) for name, need in _alike(stages).items()]
    total = Need(
        tokens=sum(need.tokens for need in stages.values()),
        device=max(need.device for need in stages.values()),
        memory=max(need.memory for need in stages.values()),
        disk=sum(need.disk for need in stages.values()),
        waiting=sum(need.waiting for need in stages.values()),
    )
    return pd.DataFrame([*rows, _row("all", total, rate)])


def _alike(stages: Mapping[str, Need]) -> dict[str, Need]:
    """Return stages by name, those of one kind that need the same under all their names."""
    names: dict[tuple[str, Need], list[str]] = {}
    for name, need in stages.items():
        stage, _, method = name.partition("@")
        names.setdefault((stage, need), []).append(method)
    return {
        f"{stage}@{len(methods)} methods"
        if len(methods) > 3
        else f"{stage}@{', '.join(methods)}".rstrip("@"): need
        for (stage, need), methods in names.items()
    }


def _row(name: str, need: Need, rate: float) -> dict[str, str]:
    return {
        "stage": name,
        "tokens": f"{need.tokens:,.0f}",
        "time": str(timedelta(seconds=round(need.seconds(rate)))),
        **{f"{what} GB": f"{getattr(need, what) / GB:.3g}" for what in PLACES},
    }


def _times(need: Need, name: str, spread: ReplicationSettings) -> Need:
    """Return what a stage needs in a study of spread: for each base, and there for each run."""
    runs = 1
    if "@" in name:
        runs = len(spread.learning_rates) + len(spread.seeds) - 1
    times = runs * len(spread.bases)
    return need._replace(tokens=need.tokens * times, waiting=need.waiting * times)


def _empty(settings: BaseModelSettings) -> Any:
    if isinstance(settings, ExternalModelSettings):
        return empty_model(settings)
    if isinstance(settings, FinetuningSettings):
        return empty_model(settings.taught)
    import torch

    from seuf.moe.training import new_model

    with torch.device("meta"):
        return new_model(settings, settings.vocabulary)


def _models(parameters: StudyParameters, model: Footprint) -> dict[str, Need]:
    made = {"make_base_model": _model(parameters.base_model, model)}
    reference = parameters.reference_model
    if reference is not None:  # of the same shape
        settings = parameters.base_model if reference == "alike" else reference
        made["make_reference_model"] = _model(settings, model)
    return made


def _model(settings: BaseModelSettings, model: Footprint) -> Need:
    if isinstance(settings, ExternalModelSettings):
        return Need(0, model.weights)
    if isinstance(settings, FinetuningSettings):
        return _finetuning(settings, model)
    step = settings.batch_size * settings.length
    held = ADAM * model.parameters + model.training_bytes(step, 0, settings.layers - 1)
    logits = 3 * 4 * step * model.vocabulary
    tokens = (
        settings.steps * step * 3 * (1 + model.head_share())
    )  # forward, and backward twice that
    return Need(tokens, held + logits, disk=model.weights)


def _finetuning(settings: FinetuningSettings, model: Footprint) -> Need:
    step, last = settings.batch_size * settings.length, len(model.layers) - 1
    return Need(
        settings.steps * step * (1 + BACKWARD + 2 * model.head_share()),
        model.weights
        + ADAM * model.adapters(settings.rank)
        + model.training_bytes(step, 0, last)
        + model.adapter_bytes(step, last)
        + model.loss_bytes(step),
        disk=model.weights,
        waiting=waiting(model, settings.steps * (1 + BACKWARD), adapted=True),
    )


def _capture(parameters: StudyParameters, model: Footprint, size: Sizes) -> dict[str, Need]:
    both = [
        plan.capture(model, parameters.routing_capture, tokens)
        for tokens in (size.forget_tokens, size.retain_tokens)
    ]
    tokens, device = sum(n.tokens for n in both), max(n.device for n in both)
    return {"capture_routing": Need(tokens, device, waiting=sum(n.waiting for n in both))}


def _unlearning(
    parameters: StudyParameters, model: Footprint, size: Sizes, treated: dict[str, dict[int, int]]
) -> dict[str, Need]:
    settings, batch = parameters.unlearning, parameters.evaluation.batch_size
    probes = 2 * settings.probe_tokens
    look = size.selection_tokens + probes, _passes(size.selection_tokens, batch) + 2
    tokens = size.forget_tokens, size.retain_tokens
    return {
        f"unlearn@{name}": plan.unlearning(model, method, settings, treated[name], tokens, look)
        for name, method in parameters.methods.items()
    }


def _evaluation(
    parameters: StudyParameters, model: Footprint, size: Sizes, treated: dict[str, dict[int, int]]
) -> dict[str, Need]:
    settings = parameters.evaluation
    batch = min(settings.batch_size * settings.max_length, size.test_tokens)
    probes = 4 * settings.probe_tokens  # both sets, before and after
    asked = size.test_tokens + probes, _passes(size.test_tokens, settings.batch_size) + 4
    needs = {
        f"evaluate@{name}": plan.evaluation(model, method, treated[name], asked, batch)
        for name, method in parameters.methods.items()
    }
    if parameters.reference_model is None:
        return needs
    alone = plan.evaluation(model, Method(scope="nothing"), {}, asked, batch)
    return needs | {"score_reference": alone}


def _passes(tokens: int, batch_size: int) -> float:
    """Return in how many passes questions are answered."""
    return tokens / (QUESTION_TOKENS * batch_size)
