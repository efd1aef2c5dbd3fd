"""What is minimised: the objectives of the paper and its anchor loss (Eq. 3), as pure functions.

An objective's parameters name the inputs that it is made of, see `OBJECTIVE_INPUTS`; its
keyword-only parameters are numbers that a study sets under `unlearning.objectives`. Another
objective is one function and one row of `OBJECTIVES`, here or in a package of your own.

Settings read the table in stages that never compute, so nothing here imports torch before it is
needed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from seuf.inputs import InputError

if TYPE_CHECKING:
    from torch import Tensor

# What an objective may ask for, by name: see `seuf.unlearning.forward_passes`, which computes it.
OBJECTIVE_INPUTS = (
    "forget_nll",  # TokenNLL of the forget batch
    "retain_nll",  # TokenNLL of the retain batch
    "forget_hidden",  # Hidden: what leaves the steered layer on the forget batch
    "retain_hidden",  # the same on the retain batch
    "forget_reference_nll",  # the original model's `TokenNLL.sums` of the forget batch, (B * S,)
    "retain_reference_hidden",  # the original model's activations on the retain batch, (B, T, d)
    "steering",  # RMU's target, c * u, (d,)
)


class Counts(NamedTuple):
    """How many tokens and texts of a step count in all, (): what means divide by."""

    tokens: Tensor
    texts: Tensor


class TokenNLL(NamedTuple):
    """Negative log-likelihoods of a batch's tokens.

    Attributes:
        values: In nats, (B, T).
        mask: Which of them count, (B, T), bool.
        texts: Which of those belong to each of a sample's S texts, (B, S, T), bool; nothing in
            places that no text fills. None where each sample is one text.
        whole: Counts of the step that the batch is a part of; None if it is all of it.
    """

    values: Tensor
    mask: Tensor
    texts: Tensor | None = None
    whole: Counts | None = None

    def mean(self, values: Tensor | None = None) -> Tensor:
        """Return the mean over all tokens of the step: of the NLL, or of other values (B, T)."""
        total = self.whole and self.whole.tokens
        return masked_mean(self.values if values is None else values, self.mask, total)

    def sums(self) -> Tensor:
        """Return the NLL summed over each text, (B * S,); 0 where there is none."""
        if self.texts is None:
            return (self.values * self.mask).sum(-1)
        return (self.values[:, None] * self.texts).sum(-1).flatten()

    def lengths(self) -> Tensor:
        """Return how many tokens of each text count, (B * S,)."""
        return self._texts().sum(-1).flatten()

    def text_means(self) -> Tensor:
        """Return each text's mean NLL, (B * S,); 0 where there is no text."""
        return self.sums() / self.lengths().clamp(min=1)

    def mean_over_texts(self, values: Tensor) -> Tensor:
        """Return the mean over all texts of the step of values (B * S,), such as `sums`."""
        total = self.whole and self.whole.texts
        return masked_mean(values, self._texts().any(-1).flatten(), total)

    def _texts(self) -> Tensor:
        return self.mask[:, None] if self.texts is None else self.texts


class Hidden(NamedTuple):
    """Activations (B, T, d), which of the tokens count (B, T), and of how many in the step."""

    values: Tensor
    mask: Tensor
    whole: Counts | None = None

    def distance(self, target: Tensor) -> Tensor:
        """Return the mean squared distance of all tokens' activations to a target."""
        distances = (self.values - target).square().mean(-1)
        return masked_mean(distances, self.mask, self.whole and self.whole.tokens)


def masked_mean(values: Tensor, mask: Tensor, total: Tensor | None = None) -> Tensor:
    """Return the mean of the values that count, without a GPU being asked how many these are.

    With a `total`, their part of a mean over so many values: parts of a whole add up to its mean.
    """
    return (values * mask).sum() / (mask.sum() if total is None else total)


def ga(forget_nll: TokenNLL) -> Tensor:
    """Return the gradient-ascent loss: minus the mean token NLL of the forget batch.

    As open-unlearning d3d7cf9, unlearn/grad_ascent.py.
    """
    return -forget_nll.mean()


def gdiff(forget_nll: TokenNLL, retain_nll: TokenNLL, *, retain_weight: float) -> Tensor:
    """Return the gradient-difference loss: ascent on forget, descent on retain.

    As open-unlearning d3d7cf9, unlearn/grad_diff.py, with retain loss NLL.
    """
    return -forget_nll.mean() + retain_weight * retain_nll.mean()


def npo(
    forget_nll: TokenNLL,
    forget_reference_nll: Tensor,
    retain_nll: TokenNLL,
    *,
    npo_beta: float,
    retain_weight: float,
) -> Tensor:
    """Return the negative-preference loss, with log-likelihoods summed over each text.

    As open-unlearning d3d7cf9, utils.py (`compute_dpo_loss`) and unlearn/npo.py. Texts that share
    a sample are texts nevertheless: the loss bends with the likelihood of each.

    Args:
        forget_nll: Of the model in training.
        forget_reference_nll: `TokenNLL.sums` of the forget batch under the original model.
        retain_nll: Of the model in training.
        npo_beta: Inverse temperature; small values approach gradient ascent.
        retain_weight: Weight of the retain NLL.
    """
    import torch.nn.functional as F

    log_ratio = forget_nll.sums() - forget_reference_nll
    forget = forget_nll.mean_over_texts(-2 / npo_beta * F.logsigmoid(npo_beta * log_ratio))
    return forget + retain_weight * retain_nll.mean()


def rmu(
    forget_hidden: Hidden,
    retain_hidden: Hidden,
    retain_reference_hidden: Tensor,
    steering: Tensor,
    *,
    rmu_retain_weight: float,
) -> Tensor:
    """Return the representation-misdirection loss.

    Pushes forget activations to `steering` and holds retain activations where they were. As
    centerforaisafety/wmdp, rmu/unlearn.py, but padding is not counted.

    Args:
        forget_hidden: Activations of the steered layer.
        retain_hidden: The same on the retain batch.
        retain_reference_hidden: The original model's, (B, T, d).
        steering: Target of every forget token, c * u, (d,).
        rmu_retain_weight: Weight of the retain term.
    """
    forget = forget_hidden.distance(steering)
    return forget + rmu_retain_weight * retain_hidden.distance(retain_reference_hidden)


def anchor_loss(gates: Tensor, target: Tensor, mask: Tensor, total: Tensor | None = None) -> Tensor:
    """Return ||g - a||^2, averaged over tokens (Zhuang et al. 2025, Eq. 3).

    Args:
        gates: Gate probabilities of the layer (N, E): the full softmax, or zero outside the
            top-k as in Eq. 1. With the latter a token that is not routed to the target gives the
            router little gradient, or none.
        target: a of Eq. 3 (E,): 1 on each of the selected experts of the layer, 0 elsewhere.
        mask: Which of the N tokens count, bool.
        total: How many count in the step, where these are a part of it; see `masked_mean`.
    """
    return masked_mean((gates - target).square().sum(-1), mask, total)


OBJECTIVES: dict[str, Callable[..., Tensor]] = {"ga": ga, "gdiff": gdiff, "npo": npo, "rmu": rmu}


def arguments_of(objective: str) -> tuple[set[str], set[str]]:
    """Return the names of the inputs and of the numbers that an objective takes.

    Raises:
        InputError: If there is no such objective, or it asks for an input that nobody computes.
    """
    if objective not in OBJECTIVES:
        raise InputError(
            f"there is no objective {objective!r}; objectives are {', '.join(OBJECTIVES)}"
        )
    parameters = inspect.signature(OBJECTIVES[objective]).parameters.values()
    numbers = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    inputs = {p.name for p in parameters} - numbers
    if unknown := sorted(inputs - {*OBJECTIVE_INPUTS}):
        raise InputError(
            f"objective {objective!r} asks for {', '.join(unknown)}; inputs are "
            f"{', '.join(OBJECTIVE_INPUTS)}, and numbers are keyword-only parameters"
        )
    return inputs, numbers


def is_steered(objective: str) -> bool:
    """Tell if an objective is made of one layer's activations, as RMU is."""
    return any("hidden" in name for name in arguments_of(objective)[0])
