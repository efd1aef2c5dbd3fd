"""The stage `unlearn` starts processes that share the model, and returns what the first makes."""

from typing import Any

import pytest

from seuf.benchmarks.settings import ScoringSettings
from seuf.inputs import InputError
from seuf.moe.loading import LanguageModel
from seuf.pipelines.unlearning.nodes import unlearn
from seuf.unlearning.settings import Method, UnlearningSettings
from tests.pipelines.test_unlearning import QUESTIONS


def made(base: LanguageModel, sharded: int, **of_row: Any) -> Any:
    """Return delta, log and times of full GDiff in so many processes."""
    row = {"scope": "everything", "objective": "gdiff", "learning_rates": [1e-2]}
    return unlearn(
        base,
        {},
        [{"text": f"{name} lives in Oslo."} for name in ("Ada", "Bo", "Cy")],
        [{"text": f"{name} lives in Rome."} for name in ("Di", "Ed", "Flo")],
        QUESTIONS,
        [{"text": "Oslo is in Norway."}],
        Method(**row | of_row),
        UnlearningSettings(
            steps=2, batch_size=2, evaluate_every=1, threads=1, probe_tokens=16, sharded=sharded
        ),
        ScoringSettings(batch_size=4),
        0,
    )


@pytest.mark.timeout(900)  # processes import torch, beside others' work
def test_two_processes_make_the_delta_and_the_log_of_one(language_model):
    (one, log, _), (other, other_log, seconds) = (made(language_model, n) for n in (1, 2))

    assert (other.base, other.dtypes, other.about) == (one.base, one.dtypes, one.about)
    assert other.tensors.keys() == one.tensors.keys()
    for key, tensor in one.tensors.items():
        assert (other.tensors[key] - tensor).norm() < 5e-3 * tensor.norm(), key
    assert list(other_log.columns) == list(log.columns)
    for name in ("loss", "gradient_norm", "general_loss"):
        assert other_log[name].tolist() == pytest.approx(log[name].tolist(), rel=1e-3, nan_ok=True)
    assert seconds["seconds"] > 0
    with other.applied_to(language_model.model):
        pass


@pytest.mark.timeout(900)
def test_what_a_process_says_is_wrong_is_one_line_here(language_model):
    with pytest.raises(InputError, match="there is no layer 7"):
        made(language_model, 2, layers=[7])
