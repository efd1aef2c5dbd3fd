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
    "forget_reference_nll",  # the original model's NLL sum of each forget sequence, (B,)
    "retain_reference_hidden",  # the original model's activations on the retain batch, (B, T, d)
    "steering",  # RMU's target, c * u, (d,)
)


class TokenNLL(NamedTuple):
    """Negative log-likelihoods in nats (B, T), and which of them count (B, T), bool."""

    values: Tensor
    mask: Tensor

    def mean(self) -> Tensor:
        """Return the mean over all tokens of the batch."""
        return masked_mean(self.values, self.mask)

    def sums(self) -> Tensor:
        """Return the sum over each sequence's tokens (B,)."""
        return (self.values * self.mask).sum(-1)


class Hidden(NamedTuple):
    """Activations (B, T, d), and which of the tokens count (B, T), bool."""

    values: Tensor
    mask: Tensor

    def distance(self, target: Tensor) -> Tensor:
        """Return the mean squared distance of all tokens' activations to a target."""
        return masked_mean((self.values - target).square().mean(-1), self.mask)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the values that count, without a GPU being asked how many these are."""
    return (values * mask).sum() / mask.sum()


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
    """Return the negative-preference loss, with log-likelihoods summed over each sequence.

    As open-unlearning d3d7cf9, utils.py (`compute_dpo_loss`) and unlearn/npo.py.

    Args:
        forget_nll: Of the model in training.
        forget_reference_nll: Each forget sequence's NLL sum under the original model (B,).
        retain_nll: Of the model in training.
        npo_beta: Inverse temperature; small values approach gradient ascent.
        retain_weight: Weight of the retain NLL.
    """
    import torch.nn.functional as F

    log_ratio = forget_nll.sums() - forget_reference_nll
    forget = -2 / npo_beta * F.logsigmoid(npo_beta * log_ratio).mean()
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


def anchor_loss(gates: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Return ||g - a||^2, averaged over tokens (Zhuang et al. 2025, Eq. 3).

    Args:
        gates: Gate probabilities of the layer (N, E): the full softmax, or zero outside the
            top-k as in Eq. 1. With the latter a token that is not routed to the target gives the
            router little gradient, or none.
        target: a of Eq. 3 (E,): 1/M on each of the M selected experts of the layer, 0 elsewhere.
        mask: Which of the N tokens count, bool.
    """
    return masked_mean((gates - target).square().sum(-1), mask)


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
