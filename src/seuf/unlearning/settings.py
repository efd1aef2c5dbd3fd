"""What the rules that choose experts are called: `affinity`, `contrast_2`, `random_3`, `esft`.

What a method is: who may change, by which objective, held by which anchor.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, Field, model_validator

from seuf.inputs import Settings

RankingName = Literal["affinity", "contrast", "random"]

ESFT = "esft"
_RANKED = re.compile(f"({'|'.join(get_args(RankingName))})(?:_([1-9][0-9]*))?")


def ranking_and_rank(rule: str) -> tuple[str, int] | None:
    """Return `affinity`, 2 of `affinity_2` and `affinity`, 1 of `affinity`; None of other names."""
    found = _RANKED.fullmatch(rule)
    return None if found is None else (found[1], int(found[2] or 1))


def is_rule(name: str) -> bool:
    """Tell a rule from what an expert named by hand may be called."""
    return name == ESFT or ranking_and_rank(name) is not None


def _known(name: str) -> str:
    if not is_rule(name):
        raise ValueError(
            f"{name!r} is no rule; rules are {', '.join(get_args(RankingName))}, each with or "
            f"without a rank as in affinity_2, and {ESFT}"
        )
    return name


RuleName = Annotated[str, AfterValidator(_known)]


ScopeName = Literal["nothing", "everything", "lora", "experts"]
ObjectiveName = Literal["ga", "gdiff", "npo", "rmu"]
Positive = Annotated[float, Field(gt=0)]

RANK = 8


class Method(Settings):
    """One row of the methods table.

    Attributes:
        scope: What may change: nothing, everything, everything by LoRA, or the selected experts.
        selection: Rule (or name of a fixed expert) that says which experts; scope `experts` only.
        objective: What is minimised.
        anchor_weight: alpha of Eq. 4; scope `experts` only.
        anchor_on: Anchor the full softmax, or g of Eq. 1, which is zero outside the top-k.
        router: Train the router's whole matrix, only the expert's row, or nothing of it.
        only: Of everything, the experts, the routers, or both and nothing else.
        layers: Of everything, these decoder layers and nothing else.
        rank: r of the adapters; scope `lora` only.
        batch_size: Overrides the study's own, see `UnlearningSettings`.
        learning_rates: Each is tried with the full step budget; the best result is kept.
        steering_coefficient: Overrides the objective's own, for RMU.
    """

    scope: ScopeName
    selection: str | None = None
    objective: ObjectiveName | None = None
    anchor_weight: Annotated[float, Field(ge=0)] = 0.0
    anchor_on: Literal["softmax", "topk"] = "softmax"
    router: Literal["layer", "row", "none"] = "layer"
    only: Literal["experts", "routers", "experts_and_routers"] | None = None
    layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None
    rank: Annotated[int, Field(gt=0)] = RANK
    batch_size: Annotated[int, Field(gt=0)] | None = None
    learning_rates: Annotated[list[Positive], Field(min_length=1)] = [1e-4]
    steering_coefficient: Positive | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.objective is None) != (self.scope == "nothing"):
            raise ValueError("every scope but 'nothing' needs an objective (ga, gdiff, npo, rmu)")
        if (self.selection is None) != (self.scope != "experts"):
            raise ValueError("scope 'experts', and no other, needs a selection")
        if self.anchor_weight and self.scope != "experts":
            raise ValueError("only scope 'experts' has a router to anchor")
        if (self.only or self.layers) and self.scope != "everything":
            raise ValueError("`only` and `layers` are parts of scope 'everything'")
        if self.rank != RANK and self.scope != "lora":
            raise ValueError("only scope 'lora' has adapters with a `rank`")
        return self


class ObjectiveSettings(Settings):
    """Numbers of the objectives; each objective reads those it has.

    Attributes:
        retain_weight: lambda of Eq. 4, for GDiff and NPO.
        npo_beta: Inverse temperature of NPO, for log-likelihoods summed over a sequence.
        rmu_retain_weight: Weight of RMU's retain term.
        rmu_steering_coefficient: Length of RMU's target for forget activations.
        rmu_layer: Layer RMU steers where everything is trained; with selected experts it is
            theirs.
    """

    retain_weight: Annotated[float, Field(ge=0)] = 1.0
    npo_beta: Positive = 0.1
    rmu_retain_weight: Annotated[float, Field(ge=0)] = 1.0
    rmu_steering_coefficient: Positive = 10.0
    rmu_layer: Annotated[int, Field(ge=0)] = 1


class UnlearningSettings(Settings):
    """What all methods of a study share: their budget and how they are watched.

    Attributes:
        steps: Updates tried with each learning rate.
        batch_size: Samples of the forget set, and as many of the retain set, in a step.
        max_length: Tokens in a sample.
        pack: Join short texts into samples of `max_length` tokens.
        evaluate_every: Steps between two looks at the selection questions.
        forget_until: Stop once the forget questions are answered this well; null means chance,
            which is 0 where answers are free.
        gradient_clip: Largest norm of the gradient over the trained tensors.
        probe_tokens: Tokens of each set on which routing overlap is watched.
        prefix_cache: Compute what lies below the trained layer once for each sample and keep it;
            the result is the same, the memory is not.
        cuda_graph: On a GPU, record a step and play it back: the same kernels without the waiting.
        threads: CPU threads; the number decides the last bits of every sum.
        resumable: Keep at every look what a killed run needs to go on from there.
        objectives: Numbers of the objectives.
    """

    steps: Annotated[int, Field(gt=0)] = 60
    batch_size: Annotated[int, Field(gt=0)] = 8
    max_length: Annotated[int, Field(gt=1)] = 512
    pack: bool = False
    evaluate_every: Annotated[int, Field(gt=0)] = 10
    forget_until: Annotated[float, Field(ge=0, le=1)] | None = None
    gradient_clip: Positive = 1.0
    probe_tokens: Annotated[int, Field(gt=0)] = 2048
    prefix_cache: bool = True
    cuda_graph: bool = True
    threads: Annotated[int, Field(gt=0)] = 2
    resumable: bool = True
    objectives: ObjectiveSettings = ObjectiveSettings()


class RoutingSettings(Settings):
    """How routing is captured.

    Attributes:
        max_tokens: Take a random part of the set with at least this many tokens; null takes all.
        max_length: Tokens in a sample.
        batch_size: Samples that pass the model at once.
    """

    max_tokens: Annotated[int, Field(gt=0)] | None = None
    max_length: Annotated[int, Field(gt=1)] = 512
    batch_size: Annotated[int, Field(gt=0)] = 16


class FixedExpert(Settings):
    """An expert named by hand."""

    layer: Annotated[int, Field(ge=0)]
    expert: Annotated[int, Field(ge=0)]


class SelectionSettings(Settings):
    """Which rules choose experts, and how many each.

    Attributes:
        rules: Rankings of `seuf.unlearning.selection.SELECTIONS`, and `esft`. A ranking may carry
            a rank: `affinity_2` takes the next `top` after the best, `random_3` the third draw.
        top: Experts each ranking chooses, M; the paper finds 1 best.
        fixed: Experts named by hand; the name is used like a rule.
        esft_threshold: Share of a layer's score that the experts of `esft` reach together, p.
        esft_score: `token`, share of the top-k slots, or `gate`, affinity, both by layer.
    """

    rules: list[RuleName] = ["affinity", "contrast", "random"]
    top: Annotated[int, Field(gt=0)] = 1
    fixed: dict[str, FixedExpert] = {}
    esft_threshold: Annotated[float, Field(gt=0, le=1)] = 0.15
    esft_score: Literal["token", "gate"] = "token"

    @model_validator(mode="after")
    def _fixed_have_names_of_their_own(self) -> Self:
        for name in self.fixed:
            if is_rule(name):
                raise ValueError(f"fixed.{name} is the name of a rule; call this expert otherwise")
        return self


class ReplicationSettings(Settings):
    """A study of spread: every method on several base models, each with several seeds.

    Attributes:
        bases: Seed of the world and of the base model, by a name for it.
        seeds: Seeds of what comes after; the first of them tries the grid.
        learning_rates: The grid, the same for every method; the methods table's own are not used.
    """

    bases: Annotated[dict[str, int], Field(min_length=1)]
    seeds: Annotated[list[int], Field(min_length=1)]
    learning_rates: Annotated[list[Positive], Field(min_length=1)]
