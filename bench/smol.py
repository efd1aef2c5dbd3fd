"""A study on SmolLM2-135M as a mixture of experts, part by part: `python -m bench smol`.

Weights, texts and questions are random, of the study's shapes: 240 forget questions of 4 choices,
200 of 6 with answers of up to 60 tokens, 100 general texts of 256 tokens, sentences to forget and
paragraphs to keep. Beside it, in the same process, the plain loop: every layer in every pass, AdamW
on all that gets a gradient, choices scored batch by batch with a question to the GPU for each.
What a plain method of 50 steps and 10 looks takes is reckoned from some steps and one look.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from bench import peers, shapes
from bench.measure import cost, peak, reset_peak, wait
from seuf.benchmarks.choices import Choice, encode_choices
from seuf.benchmarks.headline import HeadlineScorer
from seuf.benchmarks.records import Question
from seuf.benchmarks.settings import ScoringSettings
from seuf.moe.architectures import decoder, input_device
from seuf.moe.loading import LanguageModel, load
from seuf.moe.loss import MeanNLL, output_head
from seuf.unlearning.algorithm import eq4_step, steered_layer, unlearn
from seuf.unlearning.anchor import Anchor
from seuf.unlearning.evaluations import Evaluation, Evaluator, Judge
from seuf.unlearning.forward_passes import ForwardPasses
from seuf.unlearning.pilot import choose_layer
from seuf.unlearning.scopes import open_scope
from seuf.unlearning.settings import Experts, Method, PilotSettings, UnlearningSettings

EXPERT = 3
PLAIN_ROWS = 512  # sequences that the plain loop scores at once
Row = dict[str, Any]


class Numbers:
    """A tokenizer of texts that are token ids with spaces between them."""

    pad_token_id = eos_token_id = 0
    bos_token_id, eos_token = None, "<end>"

    def __call__(self, texts: Any, max_length: int | None = None, **options: Any) -> Any:
        """Return the ids of a text, or of each of several."""
        if isinstance(texts, str):
            return {"input_ids": [int(word) for word in texts.split()][:max_length]}
        return {"input_ids": [self(text, max_length)["input_ids"] for text in texts]}


class Smol:
    """The parts of the study on one device.

    Args:
        device: Where the model is.
        folder: A checkpoint; without one the weights are random.
        tiny: Take a model and numbers that a CPU can do in a minute.
    """

    def __init__(self, device: str, folder: str | None, tiny: bool) -> None:
        self.device, self.tiny, self.rng = device, tiny, random.Random(0)
        if folder is not None:
            model: Any = load(folder, device=device).model
        else:
            dtype = torch.bfloat16 if device == "cuda" else torch.float32
            model = shapes.build("smol_tiny" if tiny else "smol", device, dtype).model
            model.tie_weights()
        self.base = LanguageModel(model, Numbers())  # type: ignore[arg-type]
        self.vocabulary, depth = model.config.vocab_size, len(decoder(model).layers)
        self.layers = [round(share * depth) for share in (0.2, 14 / 30, 22 / 30, 28 / 30)]
        self.depth, scale = depth, 20 if tiny else 1
        self.questions = [
            *self._questions("forget", 240 // scale, 4, (20, 60), (3, 25)),
            *self._questions("unseen", 200 // scale, 6, (12, 30), (15, 60)),
        ]
        self.general = [self._text(256 // scale) for _ in range(100 // scale)]
        self.forget, self.retain = (
            [self._ids(self.rng.randint(*lengths)) for _ in range(1600 // scale)]
            for lengths in ((16, 44), (60 // scale + 2, 160 // scale + 2))
        )
        self.scoring = ScoringSettings(metric="acc_norm", batch_size=PLAIN_ROWS, max_length=256)
        self.settings = UnlearningSettings(
            steps=50 if not tiny else 10,
            batch_size=16 if not tiny else 2,
            max_length=160,
            evaluate_every=5,
            threads=torch.get_num_threads(),
        )
        half = [question for question in self.questions if question.part == "selection"]
        self.judge = self._judge(self.questions, self.general)
        self.trial_judge = self._judge(half, [])

    def rows(self, parts: Sequence[str], profiled: bool) -> Iterator[Row]:
        """Yield seconds and peak memory of each part, and how many times the plain loop takes."""
        model, size = self.base.model, sum(p.numel() for p in self.base.model.parameters())
        yield {"part": f"{size / 1e6:.0f} M parameters", "GB": size * model.dtype.itemsize / 1e9}
        begin = time.perf_counter()
        plain: dict[str, float] = {}
        if "plain" in parts:
            for row in self._plain():
                plain[row["part"]] = row["seconds"]
                yield row
        for name, part in (("look", self._looks), ("methods", self._methods)):
            for row in part() if name in parts else ():
                times = plain.get(row.pop("plain"), 0) / row["seconds"]
                yield row | ({"times plain": times} if times else {})
        if "pilot" in parts:
            yield self._pilot()
        if profiled:
            yield from self._profiles()
        yield {"part": "all", "seconds": time.perf_counter() - begin}

    def _looks(self) -> Iterator[Row]:
        """Yield the seconds of a look: the first, which fills what is kept, and later ones."""
        for layer in (0, *self.layers):
            with self._looking(layer) as evaluate:
                measured = cost(evaluate, self.device, repeats=3, warm=1)
            part = f"look, layers from {layer}"
            yield {**self._measured(part, measured.seconds, measured.peak), "plain": "plain look"}

    def _methods(self) -> Iterator[Row]:
        for layer in (*self.layers, None):
            for objective in ("ga", "gdiff"):
                who, experts = ("everything", []) if layer is None else ("expert", [(layer, 3)])
                used, start = reset_peak(self.device), time.perf_counter()
                unlearn(
                    self.base,
                    *(self.forget, self.retain, self._method(objective, experts), experts),
                    self.judge,
                    self.settings,
                )
                wait(self.device)
                seconds, where = time.perf_counter() - start, "" if layer is None else f" {layer}"
                name = f"{objective}, {who}{where}, {self._budget()}"
                row = self._measured(name, seconds, peak(self.device) - used)
                yield {**row, "plain": f"plain {objective}, {who}"}

    def _pilot(self) -> Row:
        pilot = PilotSettings(steps=20 if not self.tiny else 4, evaluate_every=5, target=0.75)
        candidates: list[Experts] = [[(layer, EXPERT)] for layer in range(self.depth)]
        used, start = reset_peak(self.device), time.perf_counter()
        choice = choose_layer(
            self.base,
            *(self.forget, self.retain, candidates, self._method("gdiff", candidates[0])),
            self.trial_judge,
            self.settings,
            pilot,
        )
        wait(self.device)
        seconds = time.perf_counter() - start
        name = f"pilot, {self.depth} layers, {choice.steps} steps, {choice.evaluations} looks"
        return self._measured(name, seconds, peak(self.device) - used)

    def _plain(self) -> Iterator[Row]:
        choices = [encode_choices(self.base.tokenizer, question) for question in self.questions]
        texts = [self.base.tokenizer(text)["input_ids"] for text in self.general]
        model = self.base.model
        look = cost(lambda: plain_look(model, choices, texts), self.device, 2, warm=1)
        yield self._measured("plain look", look.seconds, look.peak)
        steps, every = self.settings.steps, self.settings.evaluate_every
        for objective in ("ga", "gdiff"):
            for who in ("expert", "everything"):
                batch = self.settings.batch_size
                forget, retain = (
                    padded(samples[:batch], input_device(model))
                    for samples in (self.forget, self.retain)
                )
                loss = plain_loss(model, objective, forget, retain)
                training: Any
                if who == "expert":
                    training = peers.MaskedTraining(model, self.layers[1], EXPERT)
                else:
                    training = peers.WholeTraining(model)
                step = cost(partial(take, training, loss), self.device, 4, warm=2)
                training.close()
                seconds = steps * step.seconds + steps // every * look.seconds
                yield self._measured(f"plain {objective}, {who}", seconds, step.peak)

    def _profiles(self) -> Iterator[Row]:
        """Yield what calls a look and a step make, the dearest first."""
        activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
        for layer in (0, self.layers[2]):
            with self._looking(layer) as evaluate:
                evaluate()
                with profile(activities=activities) as profiled:
                    evaluate()
                    wait(self.device)
            yield from dearest(profiled, f"look, layers from {layer}", self.device)
        experts: Experts = [(self.layers[2], EXPERT)]
        for experts_of_step in (experts, []):
            method = self._method("gdiff", experts_of_step)
            with open_scope(self.base.model, method, experts_of_step, 0) as scope:
                original = scope.snapshot()
                steered = steered_layer(
                    self.base.model, method, experts_of_step, self.settings, scope
                )
                passes = ForwardPasses(
                    self.base,
                    *(self.forget, self.retain, method, self.settings, scope.first_layer),
                    *(steered, 0, experts_of_step),
                )
                anchor = Anchor(self.base.model, experts_of_step, method.anchor_on)
                step = eq4_step(scope, passes, anchor, method, self.settings, 1e-5)
                with scope:
                    step(passes.batch(0))
                    with profile(activities=activities) as profiled:
                        step(passes.batch(1))
                        wait(self.device)
                scope.restore(original)
            who = f"layer {experts[0][0]}" if experts_of_step else "everything"
            yield from dearest(profiled, f"step of gdiff, {who}, not recorded", self.device)

    @contextmanager
    def _looking(self, layer: int) -> Iterator[Callable[[], Any]]:
        """Give what evaluates a model of which the layers from one on change."""
        experts: Experts = [(layer, EXPERT)]
        method = self._method("ga", experts)
        evaluator = Evaluator(
            self.base, self.judge, self.forget, self.retain, self.settings, [layer]
        )
        with open_scope(self.base.model, method, experts, 0) as scope:
            yield evaluator.of(scope)

    def _method(self, objective: str, experts: Experts) -> Method:
        if not experts:
            return Method(scope="everything", objective=objective, learning_rates=[1e-5])
        return Method(
            scope="experts",
            selection="affinity",
            objective=objective,
            anchor_weight=1.0,
            learning_rates=[1e-3],
        )

    def _measured(self, part: str, seconds: float, used: int) -> Row:
        return {"part": part, "seconds": seconds, "peak GB above": used / 1e9}

    def _budget(self) -> str:
        steps = self.settings.steps
        return f"{steps} steps, {steps // self.settings.evaluate_every} looks"

    def _judge(self, questions: Sequence[Question], texts: Sequence[str]) -> Judge:
        """Return what scores a model as the study's nodes do, and says that little is forgotten."""
        scorer = HeadlineScorer(self.base, questions, self.scoring)
        length, size = self.scoring.max_length, self.scoring.batch_size
        general_loss = MeanNLL(self.base, texts, length, size) if texts else None

        def judge(model: Any) -> Evaluation:
            scorer.right(model)
            if general_loss is not None:
                general_loss(model)
            return Evaluation(0.9, 0.9, 0.25)

        return judge

    def _questions(
        self, subject: Any, count: int, choices: int, asked: tuple[int, int], said: tuple[int, int]
    ) -> list[Question]:
        return [
            Question(
                self._text(self.rng.randint(*asked)),
                [self._text(self.rng.randint(*said)) for _ in range(choices)],
                *(0, "", subject, "selection" if number % 2 else "test"),
            )
            for number in range(count)
        ]

    def _ids(self, length: int) -> list[int]:
        return [self.rng.randrange(1, self.vocabulary) for _ in range(length)]

    def _text(self, length: int) -> str:
        return " ".join(map(str, self._ids(length)))


def take(training: Any, loss: Callable[[], Tensor]) -> None:
    """Take a plain step."""
    training.step(loss())


def padded(samples: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Return samples as one batch, filled up with zeros."""
    width = max(map(len, samples))
    return torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in samples], device=device)


def plain_loss(model: Any, objective: str, forget: Tensor, retain: Tensor) -> Callable[[], Tensor]:
    """Return the loss of gradient ascent or difference: whole passes, all logits."""

    def nll(ids: Tensor) -> Tensor:
        logits = model(input_ids=ids, use_cache=False).logits.float()
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

    if objective == "ga":
        return lambda: -nll(forget)
    return lambda: -nll(forget) + nll(retain)


@torch.no_grad()
def plain_look(
    model: Any, questions: Sequence[Sequence[Choice]], texts: Sequence[Sequence[int]]
) -> tuple[list[float], float]:
    """Return the log-likelihood of each choice and the mean loss of texts, batch by batch."""
    device, head, likelihoods = input_device(model), output_head(model), []
    choices = sorted((choice for of in questions for choice in of), key=lambda c: len(c.input_ids))
    for start in range(0, len(choices), PLAIN_ROWS):
        batch = choices[start : start + PLAIN_ROWS]
        ids = padded([choice.input_ids for choice in batch], device)
        hidden = decoder(model)(input_ids=ids, use_cache=False).last_hidden_state
        for row, (context, said) in enumerate(batch):
            rows = hidden[row, len(context) - 1 : len(context) - 1 + len(said)]
            values = head(rows).float().log_softmax(-1)
            tokens = torch.tensor(said, device=device)
            likelihoods.append(values.gather(1, tokens[:, None]).sum().item())
    total = []
    for start in range(0, len(texts), 32):
        ids = padded(texts[start : start + 32], device)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        total.append(F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).item())
    return likelihoods, sum(total) / len(total)


WAITS = ("aten::_local_scalar_dense", "cudaStreamSynchronize", "cudaDeviceSynchronize")


def dearest(profiled: Any, part: str, device: str, most: int = 12) -> Iterator[Row]:
    """Yield how many calls a profile has, how often something waited, and the dearest kernels."""
    calls = profiled.key_averages()
    named = {call.key: call.count for call in calls}
    launches = sum(n for key, n in named.items() if key.startswith(("cudaLaunch", "cuLaunch")))
    waits = {name.rpartition(":")[2]: named[name] for name in WAITS if name in named}
    operations = sum(n for key, n in named.items() if key.startswith("aten::"))
    copies = named.get("cudaMemcpyAsync", named.get("aten::_to_copy", 0))
    yield {"part": part, "operations": operations, "launches": launches, "copies": copies} | waits
    time_of = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    for call in sorted(calls, key=lambda call: -getattr(call, time_of))[:most]:
        milliseconds = getattr(call, time_of) / 1e3
        yield {"  ms": milliseconds, "times": call.count, "what": call.key[:90]}
