"""What the page that goes with a model says."""

import pandas as pd
import pytest

from seuf.reporting.model_card import SHOWN, Exported, model_card
from tests.pipelines.test_reporting import RESULTS
from tests.reporting.examples import log, scores

MADE = Exported(
    base="org/model",
    digest="ab" * 32,
    study="mine",
    method="seuf_ga",
    settings={"scope": "experts"},
    texts=(3, 5),
    changed={"layers.0.down": 30, "layers.0.gate": 20},
    total=1000,
)


@pytest.fixture
def comparison() -> pd.DataFrame:
    """Three methods, one of which is on the card."""
    from seuf.pipelines.reporting.nodes import compare_methods

    third = {"other.scores": scores(0.1, 0.2, 0.1), "other.training_log": log()}
    return compare_methods(0, 0, **RESULTS, **third, **{"other.timing": {"seconds": 1.0}})[1]


def test_the_card_tells_of_the_method_beside_the_original(comparison):
    """50 of 1,000 parameters are 5 %."""
    card = model_card(MADE, comparison)

    assert card.startswith('---\nbase_model: "org/model"\n')
    assert "what\n3 texts hold and to keep what 5 others do" in card
    assert "50 of 1,000 parameters (5.00%)" in card
    assert "- `layers.0.down`\n- `layers.0.gate`\n\n" in card
    assert '`{"scope": "experts"}`' in card
    table = [line.split("|")[1].strip() for line in card.splitlines() if line.startswith("| ")]
    assert [name for name in table if not name.startswith(":")] == ["method", "original", "seuf_ga"]


def test_the_original_is_the_row_that_trained_nothing_whatever_its_name(comparison):
    renamed = comparison.replace({"method": {"original": "untouched"}})

    card = model_card(MADE, renamed)

    assert "| untouched |" in card
    assert "| other" not in card


def test_where_nothing_tells_the_rate_of_guessing_none_is_printed(comparison):
    card = model_card(MADE, comparison.assign(chance=float("nan")))

    assert "nan" not in card
    assert "guessing gives" not in card
    assert "lower is better; UT" in card
    assert "lower is better (guessing gives 0.25); UT" in model_card(MADE, comparison)


def test_of_many_tensors_the_first_are_named(comparison):
    many = MADE._replace(changed={f"t{number:02}": 1 for number in range(SHOWN + 4)})

    card = model_card(many, comparison)

    assert "`t11`" in card
    assert "`t12`" not in card
    assert "- and 4 more" in card


def test_a_model_that_was_left_alone_has_no_changed_tensor(comparison):
    card = model_card(MADE._replace(changed={}), comparison)

    assert "0 of 1,000 parameters (0.00%)" in card
    assert "- none" in card
