"""All parameters of a study, checked as a whole before any node runs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    model_validator,
)

from seuf.benchmarks.preflight import PreflightSettings
from seuf.benchmarks.registry import BENCHMARKS, BenchmarkSettings, load_benchmark
from seuf.benchmarks.settings import ScoringSettings
from seuf.inputs import InputError
from seuf.moe.settings import (
    ExternalModelSettings,
    FinetuningSettings,
    PretrainingSettings,
    UpcyclingSettings,
)
from seuf.unlearning.attribution import RoutingSettings
from seuf.unlearning.rankings import columns_of
from seuf.unlearning.selection import SelectionSettings, every_nth
from seuf.unlearning.settings import (
    PILOTS,
    Method,
    PilotSettings,
    ReplicationSettings,
    UnlearningSettings,
    check_steered_layer,
    pilot_rule,
    pilots_of_controls,
    samples_at_once,
)

BaseModelSettings = Annotated[
    PretrainingSettings | FinetuningSettings | UpcyclingSettings | ExternalModelSettings,
    Field(discriminator="source"),
]

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
YAML_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}  # no texts, unquoted


def _settings_of_benchmark(parameters: Any) -> BenchmarkSettings:
    if not isinstance(parameters, Mapping) or not isinstance(parameters.get("name"), str):
        raise ValueError(f"a benchmark needs a `name`: one of {', '.join(BENCHMARKS)}")
    return load_benchmark(parameters["name"]).settings.model_validate(parameters)


class StudyParameters(BaseModel):
    """The top-level keys of a study's parameters."""

    model_config = ConfigDict(extra="forbid")

    seed: int
    base_seed: int
    benchmark: Annotated[BenchmarkSettings, PlainValidator(_settings_of_benchmark)]
    base_model: BaseModelSettings
    reference_model: Literal["alike"] | BaseModelSettings | None = None
    routing_capture: RoutingSettings
    expert_selection: SelectionSettings
    unlearning: UnlearningSettings
    evaluation: ScoringSettings
    pilot: PilotSettings = PilotSettings()
    preflight: PreflightSettings | None = None
    methods: Annotated[dict[str, Method], Field(min_length=1)]
    replication: ReplicationSettings | None = None
    resources: dict[str, dict[str, float]] = {}  # what stages need, for `kedro dvc run -j`

    @model_validator(mode="after")
    def _method_names_are_usable(self) -> Self:
        """A method's name stands in commands, paths, Kedro's namespaces and YAML."""
        seen: dict[str, str] = {}
        for name in self.methods:
            if not NAME.fullmatch(name) or name.lower() in YAML_WORDS:
                raise ValueError(
                    f"methods: {name!r} cannot be a name: begin with a letter and use letters of "
                    "a-z, digits, _ and - alone, and no word such as null or yes"
                )
            if (other := seen.setdefault(name.lower(), name)) != name:
                raise ValueError(f"methods: {other!r} and {name!r} would be one folder on a Mac")
        return self

    @model_validator(mode="after")
    def _selections_are_known(self) -> Self:
        known = [*self.expert_selection.rules, *self.expert_selection.fixed, *PILOTS]
        if named := [name for name in self.expert_selection.fixed if name in PILOTS]:
            raise ValueError(f"expert_selection.fixed.{named[0]} is the name of a pilot")
        for name, method in self.methods.items():
            if pilot_rule(method.selection):
                if method.scope != "experts":
                    raise ValueError(f"methods.{name}: a pilot needs scope 'experts'")
            elif method.selection is not None and method.selection not in known:
                raise ValueError(
                    f"methods.{name}.selection {method.selection!r} is unknown; "
                    f"expert_selection knows {', '.join(known)}"
                )
        pilots_of_controls(self.methods)
        for rule in self.expert_selection.rules:
            if missing := columns_of(rule) - {*self.routing_capture.columns}:
                raise ValueError(
                    f"expert_selection.rules: {rule!r} reads {', '.join(sorted(missing))}: add "
                    "it to routing_capture.columns"
                )
        return self

    @model_validator(mode="after")
    def _numbers_and_layers_fit_the_objectives(self) -> Self:
        for name, method in self.methods.items():
            if method.objective is None:
                continue
            try:
                self.unlearning.objectives.numbers_for(method.objective)
                check_steered_layer(method, self.unlearning, min(method.layers or [0]))
                samples_at_once(method, self.unlearning)
            except InputError as error:
                raise ValueError(f"methods.{name}: {error}") from None
        return self

    @model_validator(mode="after")
    def _replicated_methods_take_as_many_updates(self) -> Self:
        """In a study of spread all methods have the same budget; a pilot's trials count too."""
        if self.replication is None:
            return self
        updates = {
            name: number
            for name, method in self.methods.items()
            if (number := self._updates(method))
        }
        usual = Counter(updates.values()).most_common(1)[0][0] if updates else 0
        if others := [f"{name} ({number})" for name, number in updates.items() if number != usual]:
            raise ValueError(
                f"every method of a study of spread takes as many updates, {usual} here, and not "
                f"{', '.join(others)}: learning_rates times unlearning.steps, and a pilot's trials"
            )
        for pair in self.replication.comparisons:
            if missing := [name for name in pair if name not in self.methods]:
                raise ValueError(
                    f"replication.comparisons names {missing[0]!r}, which is no row of methods"
                )
        return self

    def _updates(self, method: Method) -> int | None:
        """Return how many updates a method takes.

        None for one that does not train, and for a pilot in a model of unknown depth.
        """
        if method.objective is None:
            return None
        run = len(method.learning_rates) * self.unlearning.steps
        if pilot_rule(method.selection) is None:
            return run
        layers = getattr(self.base_model, "layers", None)
        if layers is None:
            return None
        rates = len(self.pilot.learning_rates or ["the middle one"])
        trial = rates * (self.pilot.steps or self.unlearning.steps)
        return run + len(every_nth(layers, self.pilot.every)) * trial

    @model_validator(mode="after")
    def _reference_can_be_made(self) -> Self:
        if self.reference_model == "alike" and self.base_model.source == "external":
            raise ValueError(
                "reference_model 'alike' needs a base model that is made here: name the model that "
                "never saw what is to be forgotten, with `source: external` and its `path`"
            )
        return self

    @model_validator(mode="after")
    def _devices_hold_whole_models(self) -> Self:
        groups = {
            "evaluation": self.evaluation.devices,
            "routing_capture": self.routing_capture.devices,
        }
        for name, devices in groups.items():
            if devices > 1 and getattr(self.base_model, "device_map", None):
                raise ValueError(
                    f"{name}.devices is {devices}, and each holds the whole model: set it to 1, or "
                    "base_model.device_map to null"
                )
        return self

    @model_validator(mode="after")
    def _pretraining_needs_texts(self) -> Self:
        name = self.benchmark.name
        taught = self.base_model.source != "external"
        if taught and not load_benchmark(name).has_pretraining_texts:
            raise ValueError(
                f"benchmark {name!r} brings no texts to train on: base_model.source must be "
                "external"
            )
        return self


def check_parameters(parameters: dict[str, Any]) -> None:
    """Check the parameters of a study.

    Raises:
        InputError: Naming each wrong key, what is wrong with it, and its value.
    """
    try:
        StudyParameters.model_validate(parameters)
    except ValidationError as error:
        lines = [_line(entry) for entry in error.errors()]
        raise InputError("; ".join(lines)) from None


def _line(entry: Any) -> str:
    key = ".".join(str(part) for part in entry["loc"]) or "parameters"
    came = "" if entry["type"] in ("missing", "value_error") else f" (came: {entry['input']!r})"
    return f"{key}: {entry['msg']}{came}"
