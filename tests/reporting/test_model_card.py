"""What the page that goes with a model says."""

import re

import pandas as pd
import pytest
import yaml

from seuf.reporting.model_card import SHOWN, BaseModel, Exported, has_scores, model_card
from tests.pipelines.test_reporting import RESULTS
from tests.reporting.examples import log, scores

MADE = Exported(
    base=BaseModel("org/model", on_hub=True, commit="c0ffee", licence={"license": "mit"}),
    digest="ab" * 32,
    delta="cd" * 32,
    study="mine",
    method="seuf_ga",
    settings={"scope": "experts", "selection": "affinity", "objective": "ga"},
    experts=[(1, 3), (2, 0)],
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

    assert "what\n3 texts hold and to keep what 5 others do" in card
    assert "50 of 1,000 parameters (5.00%)" in card
    assert "- `layers.0.down`\n- `layers.0.gate`\n\n" in card
    assert '`{"scope": "experts", "selection": "affinity", "objective": "ga"}`' in card
    scored = card[card.index("## How well") :]
    table = [line.split("|")[1].strip() for line in scored.splitlines() if line.startswith("| ")]
    assert [name for name in table if not name.startswith(":")] == ["method", "original", "seuf_ga"]
    assert re.search(r"\| seuf_ga .* \d\.\d\d ± \d\.\d\d .* \d\.\d\d ± \d\.\d\d ", scored)


def test_the_hub_is_told_base_licence_and_library(comparison):
    header = model_card(MADE, comparison).split("---\n")[1]

    assert yaml.safe_load(header) == {
        "base_model": "org/model",
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": "mit",
        "tags": ["unlearning", "mixture-of-experts"],
    }


def test_the_hub_is_told_no_base_that_it_does_not_have(comparison):
    card = model_card(MADE._replace(base=BaseModel("my-moe")), comparison)

    assert {"base_model", "license"} & {*yaml.safe_load(card.split("---\n")[1])} == set()
    assert "# my-moe, after unlearning\n\nMade from `my-moe` by the method `seuf_ga`" in card


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("pretrain", "(trained from scratch on texts of the study)"),
        ("finetune", "(`org/model` (commit `c0ffee`), taught texts of the study by LoRA)"),
        ("upcycle", "(`org/model` (commit `c0ffee`), made a mixture of experts and taught"),
    ],
)
def test_a_base_model_of_the_study_is_told_by_how_it_was_made(comparison, source, told):
    card = model_card(MADE._replace(base=MADE.base._replace(source=source)), comparison)

    assert "# Base model of mine, after unlearning" in card
    assert f"Made from the study's base model {told}" in card


def test_the_card_identifies_the_model(comparison):
    card = model_card(MADE._replace(requests=["17", "18"], commit="fade"), comparison)

    for name, value in {
        "scope": "experts",
        "selection": "affinity",
        "objective": "ga",
        "experts, layer:expert": "1:3, 2:0",
        "requests served": "17, 18",
        "base model, SHA-256 over all tensors": f"`{'ab' * 32}`",
        "delta, SHA-256 of the file": f"`{'cd' * 32}`",
        "code, commit": "`fade`",
    }.items():
        assert f"\n| {name} | {value} |\n" in card


def test_what_is_not_known_has_no_line(comparison):
    card = model_card(MADE._replace(experts=[], settings={"scope": "lora"}), comparison)

    for name in ("experts,", "requests", "selection", "code,"):
        assert f"| {name}" not in card


def test_a_card_has_scores_if_its_table_gives_them(comparison):
    card = model_card(MADE, comparison)
    lines = card.splitlines()

    assert has_scores(card, "seuf_ga")
    assert not has_scores(card, "seuf")
    assert not has_scores(card, "scope")
    assert not has_scores("\n".join(x for x in lines if not x.startswith("| seuf_ga")), "seuf_ga")
    lost = comparison.assign(utility=float("nan"))
    assert not has_scores(model_card(MADE, lost), "seuf_ga")


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
