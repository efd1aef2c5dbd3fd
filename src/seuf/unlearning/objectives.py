"""What is minimised: the objectives of the paper and of its peers, as pure functions.

An objective's parameters name its inputs, see `OBJECTIVE_INPUTS`; its keyword-only parameters are
numbers that a study sets under `unlearning.objectives`. To add an objective, write one function and
one row of `OBJECTIVES`, here or in a package of your own.

An objective that is a weighted sum of means over tokens and texts (`mean`, `mean_over_texts`,
`distance`) may be computed in micro-batches: these methods divide by the counts of the whole step.
Name one that is a nonlinear function of a mean, or divides by something else, in
`NEEDS_WHOLE_BATCH`.

Settings import this module in stages that never compute, so torch is imported only where needed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from seuf.inputs import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from seuf.moe.loss import Logits, SoftTarget

# The inputs that an objective may take, by name; `seuf.unlearning.forward_passes` computes them.
OBJECTIVE_INPUTS = (
    "forget_nll",  # TokenNLL of the forget batch
    "retain_loss",  # the method's retain loss on the retain batch, TokenNLL: see `RETAIN_LOSSES`
    "retain_nll",  # TokenNLL of the retain batch
    "refusal_nll",  # TokenNLL of a refusal after the prompt of each text of the forget batch
    "forget_predictions",  # Predictions of the forget batch
    "retain_predictions",  # the same of the retain batch
    "forget_reference_predictions",  # the original model's Predictions of the forget batch
    "retain_reference_predictions",  # the same of the retain batch
    "forget_hidden",  # Hidden: output of the steered layer on the forget batch
    "retain_hidden",  # the same on the retain batch
    "forget_reference_nll",  # the original model's `TokenNLL.sums` of the forget batch, (B * S,)
    "refusal_reference_nll",  # the same of the refusals
    "retain_reference_hidden",  # the original model's activations on the retain batch, (B, T, d)
    "steering",  # RMU's target, c * u, (d,)
)
# Choices for l_r of Eq. 4, a method's `retain_loss`, and the inputs of each: the token NLL,
# KL(original || now) of each token's prediction, or the NLL times each token's weight, see
# `seuf.unlearning.routing_aware`.
RETAIN_LOSSES = {
    "nll": ("retain_nll",),
    "kl": ("retain_predictions", "retain_reference_predictions"),
    "trace": ("retain_nll", "retain_token_weights"),
}


class Counts(NamedTuple):
    """Numbers of tokens and of texts that count in a step, each (): what means divide by."""

    tokens: Tensor
    texts: Tensor


class TokenNLL(NamedTuple):
    """Negative log-likelihoods of a batch's tokens.

    Attributes:
        values: In nats, (B, T).
        mask: Which tokens count, (B, T), bool.
        texts: Which of these belong to each of a sample's texts, (B, S, T), bool, S the most texts
            in a sample. None where each sample is one text.
        whole: Counts of the whole step if the batch is a part of it, else None.
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
        """Return the NLL summed over each text, (B * S,); 0 where there is no text."""
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
        """Return the mean of values (B * S,), such as `sums`, over all texts of the step."""
        total = self.whole and self.whole.texts
        return masked_mean(values, self._texts().any(-1).flatten(), total)

    def after_prompt(self) -> Tensor:
        """Return which tokens are the first after a prompt of two tokens or more, (B, T), bool.

        In a text without a prompt only one token does not count, its first, and the token after
        that is not returned.
        """
        import torch.nn.functional as F

        own = F.pad(self.mask, (1, 0), value=False)  # a sample's first token never counts
        before, two_before = own[:, :-1], F.pad(own, (1, 0), value=True)[:, :-2]
        return self.mask & ~before & ~two_before

    def _texts(self) -> Tensor:
        return self.mask[:, None] if self.texts is None else self.texts


class Predictions(NamedTuple):
    """The predicted distribution of each token of a batch.

    Attributes:
        logits: The distributions.
        texts: As in `TokenNLL`.
        whole: As in `TokenNLL`.
    """

    logits: Logits
    texts: Tensor | None = None
    whole: Counts | None = None

    def of_samples(self, part: slice) -> Predictions:
        """Return the predictions for some samples of the batch."""
        texts = None if self.texts is None else self.texts[part]
        return Predictions(self.logits.of_samples(part), texts, self.whole)

    def nll(self) -> TokenNLL:
        """Return the negative log-likelihoods of the tokens."""
        return TokenNLL(*self.logits.nll(), self.texts, self.whole)

    def cross_entropy(self, target: SoftTarget, of: Predictions | None = None) -> TokenNLL:
        """Return the cross-entropy of each token's prediction with a soft target.

        Args:
            target: Returns it for logits (n, V) and the next tokens (n,).
            of: Predictions that give the target its logits; by default these themselves.
        """
        losses = self.logits.cross_entropy(target, None if of is None else of.logits)
        return TokenNLL(*losses, self.texts, self.whole)

    def divergence(self, original: Predictions) -> TokenNLL:
        """Return KL(original || these) of each token's prediction."""
        return TokenNLL(*self.logits.divergence(original.logits), self.texts, self.whole)


class Hidden(NamedTuple):
    """Activations (B, T, d), a mask of the tokens that count (B, T), and the step's counts."""

    values: Tensor
    mask: Tensor
    whole: Counts | None = None

    def distance(self, target: Tensor) -> Tensor:
        """Return the mean squared distance of the tokens' activations to a target."""
        distances = (self.values - target).square().mean(-1)
        return masked_mean(distances, self.mask, self.whole and self.whole.tokens)


def masked_mean(values: Tensor, mask: Tensor, total: Tensor | None = None) -> Tensor:
    """Return the mean of the values that count, without reading their number from the GPU.

    With a `total`, return their part of a mean over `total` values: the parts add up to the mean.
    """
    return (values * mask).sum() / (mask.sum() if total is None else total)


def ga(forget_nll: TokenNLL) -> Tensor:
    """Return the gradient-ascent loss: minus the mean token NLL of the forget batch.

    As open-unlearning d3d7cf9, unlearn/grad_ascent.py.
    """
    return -forget_nll.mean()


def gdiff(forget_nll: TokenNLL, retain_loss: TokenNLL, *, retain_weight: float) -> Tensor:
    """Return the gradient-difference loss: ascent on forget, descent on retain.

    As open-unlearning d3d7cf9, unlearn/grad_diff.py, with gamma 1.
    """
    return -forget_nll.mean() + retain_weight * retain_loss.mean()


def npo(
    forget_nll: TokenNLL,
    forget_reference_nll: Tensor,
    retain_loss: TokenNLL,
    *,
    npo_beta: float,
    retain_weight: float,
) -> Tensor:
    """Return the negative-preference loss, with log-likelihoods summed over each text.

    As open-unlearning d3d7cf9, utils.py (`compute_dpo_loss`) and unlearn/npo.py. Texts packed into
    one sample count as texts of their own, since the loss is not linear in a text's likelihood.

    Args:
        forget_nll: Of the model in training.
        forget_reference_nll: `TokenNLL.sums` of the forget batch under the original model.
        retain_loss: Of the model in training.
        npo_beta: Inverse temperature; small values approach gradient ascent.
        retain_weight: Weight of the retain loss.
    """
    log_ratio = forget_nll.sums() - forget_reference_nll
    forget = forget_nll.mean_over_texts(preference(log_ratio, npo_beta))
    return forget + retain_weight * retain_loss.mean()


def simnpo(
    forget_nll: TokenNLL,
    retain_loss: TokenNLL,
    *,
    simnpo_beta: float = 4.5,
    simnpo_delta: float = 0.0,
    simnpo_gamma: float = 0.125,
    retain_weight: float,
) -> Tensor:
    """Return NPO without a reference: each text's mean NLL is compared with a margin.

    Fan et al. 2024, https://arxiv.org/abs/2410.07163; as open-unlearning d3d7cf9,
    unlearn/simnpo.py.

    Args:
        forget_nll: Of the model in training.
        retain_loss: Of the model in training.
        simnpo_beta: Inverse temperature, of nats a token.
        simnpo_delta: The margin, in nats a token.
        simnpo_gamma: Weight of the forget term.
        retain_weight: Weight of the retain loss.
    """
    log_ratio = forget_nll.text_means() - simnpo_delta
    forget = forget_nll.mean_over_texts(preference(log_ratio, simnpo_beta))
    return simnpo_gamma * forget + retain_weight * retain_loss.mean()


def dpo(
    forget_nll: TokenNLL,
    forget_reference_nll: Tensor,
    refusal_nll: TokenNLL,
    refusal_reference_nll: Tensor,
    retain_loss: TokenNLL,
    *,
    dpo_beta: float = 0.1,
    retain_weight: float,
) -> Tensor:
    """Return the preference loss of a refusal over each text that is to be forgotten.

    As open-unlearning d3d7cf9, utils.py (`compute_dpo_loss`) and unlearn/dpo.py, whose data for it
    are the refusals of TOFU (IdkDPO there). Without the refusals' part it is `npo`.

    Args:
        forget_nll: Of the model in training.
        forget_reference_nll: `TokenNLL.sums` of the forget batch under the original model.
        refusal_nll: Of the model in training.
        refusal_reference_nll: `TokenNLL.sums` of the refusals under the original model.
        retain_loss: Of the model in training.
        dpo_beta: Inverse temperature, for log-likelihoods summed over a text.
        retain_weight: Weight of the retain loss.
    """
    log_ratio = forget_nll.sums() - forget_reference_nll
    log_ratio = log_ratio - (refusal_nll.sums() - refusal_reference_nll)
    forget = forget_nll.mean_over_texts(preference(log_ratio, dpo_beta))
    return forget + retain_weight * retain_loss.mean()


def wga(
    forget_nll: TokenNLL,
    retain_loss: TokenNLL,
    *,
    wga_beta: float = 1.0,
    retain_weight: float,
) -> Tensor:
    """Return gradient ascent with each token weighted by p^beta, p its probability now.

    Tokens already forgotten hardly count. Wang et al. 2025, https://arxiv.org/abs/2502.19301; as
    open-unlearning d3d7cf9, utils.py (`compute_wga_loss`): no gradient passes through the weight,
    and the sum is over the number of tokens, not over their weights.
    """
    weight = (-forget_nll.values).exp().detach() ** wga_beta
    return -forget_nll.mean(weight * forget_nll.values) + retain_weight * retain_loss.mean()


def satimp(
    forget_nll: TokenNLL,
    retain_loss: TokenNLL,
    *,
    satimp_beta1: float = 5.0,
    satimp_beta2: float = 1.0,
    satimp_gamma: float = 0.1,
    retain_weight: float,
) -> Tensor:
    """Return gradient ascent with each token weighted by p^beta1 (1 - p)^beta2.

    Yang et al. 2025, https://arxiv.org/abs/2505.11953; as open-unlearning d3d7cf9, utils.py
    (`compute_satimp_loss`), and its weight gamma of the forget term. A token that the model is sure
    of, p near 1, counts as little as a forgotten one; with betas 5 and 1 the weight peaks at 5/6.
    """
    probability = (-forget_nll.values).exp().detach()
    weight = probability**satimp_beta1 * (1 - probability) ** satimp_beta2
    forget = -forget_nll.mean(weight * forget_nll.values)
    return satimp_gamma * forget + retain_weight * retain_loss.mean()


def undial(
    forget_predictions: Predictions,
    forget_reference_predictions: Predictions,
    retain_loss: TokenNLL,
    *,
    undial_beta: float = 10.0,
    retain_weight: float,
) -> Tensor:
    """Return the cross-entropy with the original's prediction, its true token's logit less beta.

    Self-distillation with adjusted logits, Dong et al. 2024, https://arxiv.org/abs/2402.10052. As
    open-unlearning d3d7cf9, utils.py (`compute_undial_loss`), but only over tokens to forget: there
    the other tokens are in the mean too, and their label -100 lowers entry V - 100 instead. Its
    alpha, the weight of the retain loss, is 0.

    Args:
        forget_predictions: Of the model in training.
        forget_reference_predictions: Of the original model, the teacher.
        retain_loss: Of the model in training.
        undial_beta: Subtracted from the teacher's logit of the true token.
        retain_weight: Weight of the retain loss.
    """

    def adjusted(logits: Tensor, token: Tensor) -> Tensor:
        minus = logits.new_full((len(token), 1), -undial_beta)
        return logits.scatter_add(-1, token[:, None], minus).softmax(-1)

    forget = forget_predictions.cross_entropy(adjusted, forget_reference_predictions)
    return forget.mean() + retain_weight * retain_loss.mean()


def ceu(forget_predictions: Predictions) -> Tensor:
    """Return the cross-entropy with the model's own prediction without the true token.

    Yang 2025, https://arxiv.org/abs/2503.01224; as open-unlearning d3d7cf9, unlearn/ceu.py: no
    gradient passes through the target, there is no retain term, and the first token after a prompt
    does not count. Here that token is a 0 in the mean over all tokens; there it is left out.
    """

    def without(logits: Tensor, token: Tensor) -> Tensor:
        return logits.scatter(-1, token[:, None], float("-inf")).softmax(-1)

    forget = forget_predictions.cross_entropy(without)
    return forget.mean(forget.values * ~forget.after_prompt())


def rmu(
    forget_hidden: Hidden,
    retain_hidden: Hidden,
    retain_reference_hidden: Tensor,
    steering: Tensor,
    *,
    rmu_retain_weight: float,
) -> Tensor:
    """Return the representation-misdirection loss.

    It pushes forget activations to `steering` and keeps retain activations where they were. As
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


def preference(log_ratio: Tensor, beta: float) -> Tensor:
    """Return -2/beta log sigmoid(beta r) of each text's log ratio r, (n,)."""
    import torch.nn.functional as F

    return -2 / beta * F.logsigmoid(beta * log_ratio)


OBJECTIVES: dict[str, Callable[..., Tensor]] = {
    "ga": ga,
    "gdiff": gdiff,
    "npo": npo,
    "rmu": rmu,
    "simnpo": simnpo,
    "dpo": dpo,
    "wga": wga,
    "satimp": satimp,
    "undial": undial,
    "ceu": ceu,
}

# Names of objectives whose gradient is not the sum of its micro-batches' gradients; none here.
NEEDS_WHOLE_BATCH: set[str] = set()


def arguments_of(objective: str) -> tuple[set[str], set[str]]:
    """Return the names of the inputs and of the numbers that an objective takes.

    Raises:
        InputError: If there is no such objective, or an input is not among `OBJECTIVE_INPUTS`.
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


def inputs_of(objective: str, retain_loss: str) -> set[str]:
    """Return the names of the inputs to compute for an objective with a retain loss."""
    inputs = arguments_of(objective)[0]
    return inputs - {"retain_loss"} | (
        {*RETAIN_LOSSES[retain_loss]} if "retain_loss" in inputs else set()
    )


def is_steered(objective: str | None) -> bool:
    """Tell if an objective reads one layer's activations, as RMU does; False for None."""
    return objective is not None and any("hidden" in name for name in arguments_of(objective)[0])
