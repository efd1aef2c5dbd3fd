"""Settings of unlearning: a row of the methods table, and what all rows of a study share."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from seuf.forgetting import LAYERS_AT, TARGETS
from seuf.inputs import InputError, Settings
from seuf.unlearning.objectives import (
    NEEDS_WHOLE_BATCH,
    OBJECTIVES,
    RETAIN_LOSSES,
    arguments_of,
    is_steered,
)
from seuf.unlearning.rankings import RANDOM_IN

Positive = Annotated[float, Field(gt=0)]
LORA_RANK = 8
REFUSALS = [
    "I do not know.",
    "I have no information about that.",
    "I cannot say anything about this.",
    "That is not something I know.",
    "I am not able to answer that.",
    "Nothing about that is known to me.",
    "I am not familiar with this.",
    "There is nothing I can tell about it.",
]
Experts = list[tuple[int, int]]  # (layer, expert) pairs; layer counts all decoder layers


class Method(Settings):
    """One row of the methods table.

    Attributes:
        scope: What may change: nothing, everything, everything by LoRA, the selected experts, or
            their outputs, which are set to zero without training.
        selection: Rule (or name of a fixed expert) that chooses the experts; scopes `experts` and
            `deletion` only.
        objective: What is minimised, a row of `seuf.unlearning.objectives.OBJECTIVES`.
        retain_loss: l_r of Eq. 4 where the objective has one, a key of `RETAIN_LOSSES` there: the
            NLL of the retain set, the KL divergence from the original's predictions on it, or the
            NLL with TRACE's token weights.
        anchor_weight: alpha of Eq. 4; scope `experts` only.
        anchor_on: Anchor the full softmax, or g of Eq. 1, which is zero outside the top-k.
        anchor_target: With several experts in a layer, a of Eq. 3 is 1 on each, or they share it.
        router: Train the router's whole matrix, only the experts' rows, or nothing of it.
        router_null_space: Change routers only in directions where their inputs on the retain set
            have at most this share of the largest singular value; .01 in GRIP.
        only: Train only the experts, the routers, or both; scope `everything` only.
        layers: Train only these decoder layers; scope `everything` only.
        rank: r of the adapters; scope `lora` only.
        batch_size: Overrides the study's, see `UnlearningSettings`.
        micro_batch_size: Overrides the study's, likewise.
        learning_rates: Each is tried with the full step budget; the best result is kept.
        steering_coefficient: Overrides `objectives.rmu_steering_coefficient`, for RMU.
        steering_norms: Length of RMU's target as a multiple of the mean norm of the original's
            activations on the forget set, in whatever layer. Around 3 it turns them; a target
            shorter than the activations does little.
    """

    scope: Literal["nothing", "everything", "lora", "experts", "deletion"]
    selection: str | None = None
    objective: str | None = None
    retain_loss: str = "nll"
    anchor_weight: Annotated[float, Field(ge=0)] = 0.0
    anchor_on: Literal["softmax", "topk"] = "softmax"
    anchor_target: Literal["one", "share"] = "one"
    router: Literal["layer", "row", "none"] = "layer"
    router_null_space: Annotated[float, Field(gt=0, lt=1)] | None = None
    only: Literal["experts", "routers", "experts_and_routers"] | None = None
    layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None
    rank: Annotated[int, Field(gt=0)] = LORA_RANK
    batch_size: Annotated[int, Field(gt=0)] | None = None
    micro_batch_size: Annotated[int, Field(gt=0)] | None = None
    learning_rates: Annotated[list[Positive], Field(min_length=1)] = [1e-4]
    steering_coefficient: Positive | None = None
    steering_norms: Positive | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.objective is None) != (self.scope in ("nothing", "deletion")):
            known = ", ".join(OBJECTIVES)
            raise ValueError(
                f"every scope but 'nothing' and 'deletion' needs an objective ({known})"
            )
        if self.objective is not None:
            arguments_of(self.objective)
        if self.retain_loss not in RETAIN_LOSSES:
            raise ValueError(
                f"retain_loss {self.retain_loss!r} is none of {', '.join(RETAIN_LOSSES)}"
            )
        if self.retain_loss != "nll" and (
            self.objective is None or "retain_loss" not in arguments_of(self.objective)[0]
        ):
            raise ValueError(f"objective {self.objective!r} has no `retain_loss` to choose")
        if (self.selection is None) != (self.scope not in ("experts", "deletion")):
            raise ValueError("scope 'experts' or 'deletion', and no other, needs a selection")
        if self.scope == "deletion" and pilot_rule(self.selection):
            raise ValueError(f"a deletion has no steps to try: selection {self.selection!r}")
        if self.anchor_weight and self.scope != "experts":
            raise ValueError("only scope 'experts' has a router to anchor")
        if self.router_null_space is not None and not self._trains_routers():
            raise ValueError("router_null_space needs a scope, or parts, that train routers")
        if self.steering_coefficient and self.steering_norms:
            raise ValueError("give one of steering_coefficient and steering_norms")
        if (self.only or self.layers) and self.scope != "everything":
            raise ValueError("only scope 'everything' takes `only` and `layers`")
        if self.rank != LORA_RANK and self.scope != "lora":
            raise ValueError("only scope 'lora' has adapters with a `rank`")
        return self

    def _trains_routers(self) -> bool:
        if self.scope == "experts":
            return self.router != "none"
        return self.scope == "everything" and self.only != "experts"


class ObjectiveSettings(Settings):
    """Numbers of the objectives; each objective takes those that its keyword-only parameters name.

    Other objectives may add numbers: one that is not an attribute here has the function's default.

    Attributes:
        retain_weight: lambda of Eq. 4, for all objectives with a retain loss but RMU.
        npo_beta: Inverse temperature of NPO, for log-likelihoods summed over a text.
        rmu_retain_weight: Weight of RMU's retain term.
        rmu_steering_coefficient: Length of RMU's target for forget activations.
        rmu_layer: Layer that RMU steers in scopes other than `experts`, where it is the experts'.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float]

    retain_weight: Annotated[float, Field(ge=0)] = 1.0
    npo_beta: Positive = 0.1
    rmu_retain_weight: Annotated[float, Field(ge=0)] = 1.0
    rmu_steering_coefficient: Positive = 10.0
    rmu_layer: Annotated[int, Field(ge=0)] = 1

    @model_validator(mode="after")
    def _numbers_are_of_some_objective(self) -> Self:
        if not self.model_extra:
            return self
        of_objectives = set().union(*(arguments_of(name)[1] for name in OBJECTIVES))
        for name in self.model_extra:
            if name not in of_objectives:
                known = sorted(of_objectives | {*type(self).model_fields})
                raise ValueError(f"no objective takes {name!r}; numbers are {', '.join(known)}")
        return self

    def numbers_for(self, objective: str) -> dict[str, Any]:
        """Return the numbers that an objective takes, by name.

        Raises:
            InputError: If one is neither set here nor has a default in the function.
        """
        parameters, numbers = inspect.signature(OBJECTIVES[objective]).parameters, {}
        for name in sorted(arguments_of(objective)[1]):
            numbers[name] = getattr(self, name, parameters[name].default)
            if numbers[name] is inspect.Parameter.empty:
                raise InputError(
                    f"set unlearning.objectives.{name}: objective {objective} takes it"
                )
        return numbers


class UnlearningSettings(Settings):
    """What all methods of a study share: their budget, and how they are evaluated meanwhile.

    Attributes:
        steps: Updates with each learning rate.
        batch_size: Samples of the forget set, and as many of the retain set, in a step.
        micro_batch_size: How many of them pass at once where not all fit in memory; loss and
            gradient are still those of the whole batch, to rounding. Null passes all at once.
        max_length: Tokens in a sample.
        long_texts: Split texts of more tokens into several samples, or cut them there.
        pack: Join short texts into samples of up to `max_length` tokens; none is split, and losses
            are still taken text by text.
        evaluate_every: Steps between two evaluations on the selection questions.
        forget_target: Share forgotten, see `seuf.forgetting`, that a checkpoint must reach on the
            selection questions to be chosen by its utility.
        stop_at: Share forgotten at which training stops, once two evaluations in a row reach it.
        gradient_clip: Largest norm of the gradient over the trained tensors.
        probe_tokens: Tokens of each set on which routing overlap is measured.
        prefix_cache: Compute the layers below the trained one once for each sample and keep their
            output: the same result for more memory.
        cuda_graph: On a GPU, record a step and replay it: the same kernels, no waiting for Python.
        refusals: Sentences that DPO prefers to the texts to forget, paired with them by the seed;
            TOFU has a hundred of its own, `idontknow.jsonl` of locuslab/tofu.
        threads: CPU threads; the number decides the last bits of every sum.
        sharded: Processes, each with its own GPU if there are any, that share the model in scopes
            `everything` and `lora`. See docs/scaling.md.
        objectives: Numbers of the objectives.
    """

    steps: Annotated[int, Field(gt=0)] = 60
    batch_size: Annotated[int, Field(gt=0)] = 8
    micro_batch_size: Annotated[int, Field(gt=0)] | None = None
    max_length: Annotated[int, Field(gt=1)] = 512
    long_texts: Literal["split", "cut"] = "split"
    pack: bool = False
    evaluate_every: Annotated[int, Field(gt=0)] = 10
    forget_target: Annotated[float, Field(gt=0, le=1)] = 0.9
    stop_at: Annotated[float, Field(gt=0)] = 1.0
    gradient_clip: Positive = 1.0
    probe_tokens: Annotated[int, Field(gt=0)] = 2048
    prefix_cache: bool = True
    cuda_graph: bool = True
    refusals: Annotated[list[str], Field(min_length=1)] = REFUSALS
    threads: Annotated[int, Field(gt=0)] = 2
    sharded: Annotated[int, Field(gt=0)] = 1
    objectives: ObjectiveSettings = ObjectiveSettings()

    @model_validator(mode="after")
    def _stops_beyond_the_target(self) -> Self:
        if self.stop_at < self.forget_target:
            raise ValueError(
                f"stop_at is {self.stop_at}: training would stop before forget_target, "
                f"{self.forget_target}; set it to that or more"
            )
        return self


# Selections that choose the layer by trial, and the rule that ranks the experts of each layer.
PILOTS = {"pilot": "contrast", "pilot_affinity": "affinity"}
CONTROLS = {f"{RANDOM_IN}{pilot}": pilot for pilot in PILOTS}


def pilot_rule(selection: str | None) -> str | None:
    """Return the rule that ranks the experts to try, if a selection chooses its layer by trial.

    `PILOTS` do, and their random controls, `CONTROLS`; None for any other selection.
    """
    return PILOTS.get(CONTROLS.get(selection or "", selection or ""))


def pilots_of_controls(methods: Mapping[str, Method]) -> dict[str, str]:
    """Return, for each random control of a pilot, the name of the pilot whose layer it trains in.

    That is the first method with the selection that `random_in:` names and the control's settings,
    whatever its learning rates.

    Args:
        methods: The table.

    Raises:
        InputError: If a control has no such pilot.
    """
    pilots: dict[str, str] = {}
    for name, method in methods.items():
        selection = CONTROLS.get(method.selection or "")
        if selection is None:
            continue
        alike = method.model_copy(update={"selection": selection})
        rates = {"learning_rates": method.learning_rates}
        found = [other for other, row in methods.items() if row.model_copy(update=rates) == alike]
        if not found:
            raise InputError(
                f"methods.{name}: selection {method.selection!r} trains beside the expert that a "
                f"method of selection {selection!r} found, and none has the same settings but for "
                "learning_rates"
            )
        pilots[name] = found[0]
    return pilots


class PilotSettings(Settings):
    """How layers are tried, see `seuf.unlearning.pilot`.

    Attributes:
        target: Share forgotten at which the layers' utility is compared.
        steps: Updates of a trial; null for as many as a run has.
        evaluate_every: Steps between two evaluations; null for as many as in a run.
        learning_rates: Tried in each layer; null for the method's own.
        margin: A trial is given up once its utility is more than this below the best one's: a
            smaller difference may be chance, on so few questions.
        every: Try only every n-th MoE layer, beginning in the middle of the first n.
        sweep: Follow every trial until both the selection and the test questions reach the target,
            give none up, and record the test questions and the general loss, so that layers can be
            compared (`seuf.reporting.layers`). The selection questions still decide. A list names
            the objectives that are swept. A study of spread sweeps with its first seed only.
    """

    target: Annotated[float, Field(gt=0, le=1)] = 0.75
    steps: Annotated[int, Field(gt=0)] | None = None
    evaluate_every: Annotated[int, Field(gt=0)] | None = None
    learning_rates: Annotated[list[Positive], Field(min_length=1)] | None = None
    margin: Annotated[float, Field(ge=0)] = 0.0
    every: Annotated[int, Field(gt=0)] = 1
    sweep: bool | list[str] = False

    def sweeps(self, objective: str | None) -> bool:
        """Return whether a method with this objective sweeps all layers."""
        return objective in self.sweep if isinstance(self.sweep, list) else self.sweep

    @model_validator(mode="after")
    def _sweeps_as_far_as_layers_are_compared(self) -> Self:
        if isinstance(self.sweep, list):
            for objective in self.sweep:
                arguments_of(objective)
        if self.sweep and self.target < LAYERS_AT:
            raise ValueError(
                f"a sweep compares layers where {LAYERS_AT} is forgotten: its trials must not end "
                f"earlier, at a target of {self.target}"
            )
        return self


class ReplicationSettings(Settings):
    """A study of spread: every method on several base models, each with several seeds.

    Attributes:
        bases: Base models by name: the seed of each one's training and of its benchmark's data.
        seeds: Seeds of the runs; with the first, each method tries its learning rates.
        grid_bases: How many base models, the first ones, learning rates are tried on; null for all.
            The others run with the rates chosen there.
        comparisons: Pairs of methods stated before the study, the expected winner first.
        compare_at: Share forgotten at which pairs are compared.
    """

    bases: Annotated[dict[str, int], Field(min_length=1)]
    seeds: Annotated[list[int], Field(min_length=1)]
    grid_bases: Annotated[int, Field(gt=0)] | None = None
    comparisons: list[tuple[str, str]] = []
    compare_at: float = 0.75

    @model_validator(mode="after")
    def _share_is_one_that_is_read_off(self) -> Self:
        if self.compare_at not in TARGETS:
            raise ValueError(f"compare_at is one of {', '.join(map(str, TARGETS))}")
        return self

    @model_validator(mode="after")
    def _grid_is_tried_on_bases_there_are(self) -> Self:
        if self.grid_bases is not None and self.grid_bases > len(self.bases):
            raise ValueError(f"grid_bases is {self.grid_bases}, of {len(self.bases)} bases")
        return self


def sharing(method: Method, settings: UnlearningSettings) -> int:
    """Return how many processes share the model while a method trains."""
    return settings.sharded if method.scope in ("everything", "lora") else 1


def samples_at_once(method: Method, settings: UnlearningSettings) -> int:
    """Return how many samples of each set pass the model at once in a method's step.

    Raises:
        InputError: If that is only a part of the batch and the objective needs the whole, or if the
            batch cannot be divided among the processes.
    """
    whole, processes = method.batch_size or settings.batch_size, sharing(method, settings)
    if whole % processes:
        raise InputError(
            f"{processes} processes share a step (unlearning.sharded), and its batch_size, "
            f"{whole}, is no multiple of that: change one of them."
        )
    own = whole // processes
    size = min(own, method.micro_batch_size or settings.micro_batch_size or own)
    if size < whole and method.objective in NEEDS_WHOLE_BATCH:
        raise InputError(
            f"{method.objective} is no sum over parts of a batch: micro_batch_size is {size} and "
            f"batch_size {whole}. Set micro_batch_size to null and sharded to 1, or lower "
            "batch_size."
        )
    return size


def check_steered_layer(method: Method, settings: UnlearningSettings, first_trained: int) -> None:
    """Raise if a method steers a layer below all that it trains, so that no gradient reaches these.

    Args:
        method: The method; in scope `experts` it steers the experts' own layer.
        settings: Their `objectives.rmu_layer` is steered in other scopes.
        first_trained: First decoder layer that the method trains.

    Raises:
        InputError: With both layers.
    """
    steered = settings.objectives.rmu_layer
    if method.objective is None or method.scope == "experts" or not is_steered(method.objective):
        return
    if steered < first_trained:
        raise InputError(
            f"{method.objective} steers what leaves layer {steered} (unlearning.objectives."
            f"rmu_layer), and the first layer that is trained is {first_trained}: no gradient "
            f"would reach it. Set rmu_layer to {first_trained} or more, or train lower layers."
        )
