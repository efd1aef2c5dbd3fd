"""One row a method, for tools and for people."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from seuf.reporting.comparison import (
    at_equal_forgetting,
    chosen_path,
    compare,
    comparison_table,
    further,
    header,
    layers_of,
    markdown,
    not_unlearned,
    notes,
    original_method,
    paths_of,
    random_draws,
    readable,
    spread_over_draws,
    study_chance,
)
from tests.reporting.examples import LOG, LOOKS, comparison, generation, log, numbers, paths, scores

LOGS = {"original": log(), "seuf_ga": log(*LOOKS)}
TIMINGS = {"original": {"seconds": 0.5}, "seuf_ga": {"seconds": 2.0}}
SCORES = {"original": scores(1.0, 1.0, 0.0), "seuf_ga": scores(0.5, 0.75, 0.1)}


def test_utility_and_loss_are_read_off_the_path_at_equal_forgetting():
    """Half is forgotten at FE .42 - .5 * .17 = .335, 17/18 of the way from .42 to .33.

    Utility there is .60 - 17/18 * .15 = .4583 and the loss 1 + 17/18 = 1.9444. The look of FE .33
    has forgotten 9/17, so three quarters come (3/4 - 9/17) / (8/17) = 15/32 after it, and nine
    tenths (.9 - 9/17) / (8/17) = .7875 after it.
    """
    numbers = at_equal_forgetting(log(*LOOKS))

    assert numbers["utility_at_50"] == pytest.approx(0.60 - 17 / 18 * 0.15)
    assert numbers["utility_at_75"] == pytest.approx(0.45 - 15 / 32 * 0.11)
    assert numbers["utility_at_90"] == pytest.approx(0.45 - 0.7875 * 0.11)
    assert numbers["general_loss_at_50"] == pytest.approx(1 + 17 / 18)
    assert numbers["general_loss_at_75"] == pytest.approx(2 + 15 / 32 * 2)
    assert numbers["general_loss_at_90"] == pytest.approx(2 + 0.7875 * 2)


def test_area_is_the_mean_of_utility_on_the_way_to_nine_tenths():
    """(9/17 * (.60 + .45) / 2 + (.9 - 9/17) * (.45 + .45 - .7875 * .11) / 2) / .9."""
    numbers = at_equal_forgetting(log(*LOOKS))

    first, second = 9 / 17 * 0.525, (0.9 - 9 / 17) * (0.9 - 0.7875 * 0.11) / 2
    assert numbers["area"] == pytest.approx((first + second) / 0.9)


def test_what_a_path_does_not_reach_is_none_and_never_guessed():
    numbers = at_equal_forgetting(log(*LOOKS[:2]))

    assert numbers["utility_at_50"] is not None
    assert (numbers["utility_at_75"], numbers["general_loss_at_90"], numbers["area"]) == (None,) * 3


def test_without_general_text_there_is_no_general_loss():
    numbers = at_equal_forgetting(log(*LOOKS, general_loss=[None] * 3))

    assert numbers["general_loss_at_50"] is None
    assert numbers["utility_at_50"] is not None


def test_the_path_is_that_of_the_rate_that_holds_the_kept_checkpoint():
    one, other = log(*LOOKS, rate=0.1), log(*LOOKS[:2], rate=0.2)
    one["kept"] = False

    path = chosen_path(pd.concat([one, other]))

    assert path["learning_rate"].tolist() == [0.2, 0.2]
    assert path["step"].tolist() == [0, 5]


def test_a_step_that_broke_off_is_no_part_of_the_path():
    broken = pd.DataFrame([[0.1, 12, *[None] * (len(LOG) - 3), False]], columns=LOG)

    assert chosen_path(pd.concat([log(*LOOKS), broken]))["step"].tolist() == [0, 5, 10]


def test_paths_tell_of_each_look_whose_it_is():
    logs = LOGS | {
        "seuf_ga": pd.concat([log(*LOOKS), log(*LOOKS[:2], rate=0.2).assign(kept=False)])
    }

    table = paths_of(logs, SCORES, "7", 3)

    assert len(table) == 5
    assert table.columns.tolist() == [
        *("base", "seed", "method", "objective", "scope", "selection", "experts", "chosen"),
        *LOG,
    ]
    first = ["7", 3, "seuf_ga", "ga", "experts", "affinity", "1:3", True]
    assert table.iloc[0, :8].tolist() == first
    assert table["chosen"].tolist() == [True] * 3 + [False] * 2


def test_paths_survive_being_saved(tmp_path):
    table = paths_of(LOGS, SCORES, "7", 3)

    table.to_csv(tmp_path / "paths.csv", index=False)

    read = pd.read_csv(tmp_path / "paths.csv", dtype={"base": str})
    pd.testing.assert_frame_equal(read, table.replace({None: float("nan")}), check_dtype=False)


def test_each_method_has_its_numbers_in_the_order_of_the_study():
    metrics = compare(SCORES, LOGS, TIMINGS)

    assert list(metrics) == ["original", "seuf_ga"]
    at_targets = at_equal_forgetting(log(*LOOKS))
    assert metrics["seuf_ga"] == {
        **at_targets,
        "forget_efficacy": 0.5,
        "forget_efficacy_stderr": 0.05,
        "utility": 0.75,
        "utility_stderr": 0.05,
        "retain": 0.75,
        "retain_stderr": 0.05,
        "chance": 0.25,
        "general_loss": 4.0,
        "routing_overlap_forget": 0.5,
        "routing_overlap_retain": 0.75,
        "trained_share": 0.1,
        "changed_share": 0.1,
        "changed_tensors": 2,
        "seconds": 2.0,
    }


def test_the_original_is_on_no_path_and_has_the_loss_that_all_begin_with():
    original = compare(SCORES, LOGS, TIMINGS)["original"]

    assert not [name for name in original if "_at_" in name or name == "area"]
    assert original["general_loss"] == 1.0


def test_utility_is_that_of_unseen_questions_where_there_are_any():
    unseen = scores(0.5, 0.75, 0.1)
    unseen["headline"]["unseen"] = {"measure": "whole", "value": 0.6, "standard_error": 0.04}

    numbers = compare({"seuf_ga": unseen}, LOGS, TIMINGS)["seuf_ga"]

    assert (numbers["utility"], numbers["utility_stderr"], numbers["retain"]) == (0.6, 0.04, 0.75)


def test_a_number_that_was_not_measured_is_left_out():
    """Without a log there is no chance; the harness writes N/A for a missing error."""
    unknown = {"original": scores(1.0, 1.0, 0.0, error="N/A")}

    metrics = compare(unknown, {"original": log()}, TIMINGS)

    missing = {"chance", "general_loss", "forget_efficacy_stderr", "utility_stderr"}
    assert missing.isdisjoint(metrics["original"])


def test_generated_answers_add_rouge():
    generated = {"seuf_ga": scores(0.5, 0.75, 0.1) | {"measures": generation(0.1, 0.6)}}

    metrics = compare(generated, LOGS, TIMINGS)

    assert metrics["seuf_ga"]["rouge_forget"] == 0.1
    assert metrics["seuf_ga"]["rouge_forget_stderr"] == 0.01
    assert metrics["seuf_ga"]["rouge_retain"] == 0.6
    assert metrics["seuf_ga"]["rouge_retain_stderr"] == 0.02


def test_the_table_has_a_column_for_rouge_only_where_it_was_measured():
    assert "rouge_forget" not in comparison()
    assert "rouge_retain_stderr" in comparison(full_ga={"rouge_retain_stderr": 0.1})


def test_the_table_survives_being_saved(tmp_path):
    table = comparison_table(compare(SCORES, LOGS, TIMINGS), SCORES)

    table.to_csv(tmp_path / "comparison.csv", index=False)

    read = pd.read_csv(tmp_path / "comparison.csv")
    pd.testing.assert_frame_equal(read, table.replace({None: float("nan")}), check_dtype=False)


def test_chance_comes_from_the_first_log_that_tells_it():
    assert study_chance(LOGS) == 0.25
    assert study_chance({"original": log()}) is None


def test_the_original_is_what_trained_nothing():
    assert original_method(comparison()) == "original"
    assert original_method(comparison(original={"trained_share": 0.5})) is None


def test_a_model_that_no_method_made_is_told_by_its_two_numbers():
    retrained = numbers(0.3, 0.9, float("nan"))

    assert not_unlearned(comparison(retrained=retrained)) == {"retrained": (0.3, 0.9)}


def test_the_layer_of_a_method_is_that_of_its_first_expert():
    assert layers_of(paths(seuf_ga=LOOKS, full_ga=LOOKS)) == {"seuf_ga": 1}


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("rouge_forget", "ROUGE-L forget ↓"),
        ("rouge_retain_fill_blank", "ROUGE-L retain, fill blank ↑"),
        ("macro_retain", "retain accuracy by topic ↑"),
        ("something_new", "something new"),
        ("rouge_holdout", "ROUGE-L holdout"),
        ("choices_unseen", "choices unseen ↑"),
        ("general_loss_at_75", "loss@.75"),
        ("nll_forget", "NLL forget ↑"),
        ("nll_unseen", "NLL unseen ↓"),
    ],
)
def test_a_measure_has_a_readable_name(name, called):
    assert header(name) == called


MEASURED = {
    "forget": {"measure": "rouge_l_recall_pltrdy"},
    "retain": {"measure": "accuracy"},
}


def test_below_the_table_stands_what_is_measured():
    metrics = {"original": numbers(0.6, 0.7, 0.0), "seuf_ga": numbers(0.1, 0.6, 0.1)}

    free = comparison_table(metrics, {"original": {"headline": MEASURED}})

    assert notes(comparison())[1].endswith("the kept checkpoint; both accuracy of choices.")
    assert notes(free)[1].endswith("the kept checkpoint; FE ROUGE-L, UT accuracy of choices.")


def test_below_the_table_only_what_stands_in_it_is_explained():
    """`free` has no path and no loss, so no column of either; `comparison` both, retain neither."""
    metrics = {"original": numbers(0.6, 0.7, 0.0) | {"general_loss": None}}
    free = comparison_table(metrics, {"original": {"headline": MEASURED}})

    path, kept = notes(free)[:2]
    assert "Area" not in path
    assert kept.startswith("FE and UT: the kept checkpoint")
    path, kept = notes(comparison())[:2]
    assert path.endswith("not reached. Area: mean utility on the way to .9.")
    assert kept.startswith("FE, UT and loss (nats a token of other text): the kept checkpoint")


def test_a_measure_of_a_benchmark_from_outside_is_called_by_its_name():
    new = {"headline": MEASURED | {"forget": {"measure": "exact_match"}}}

    table = comparison_table({"original": numbers(0.6, 0.7, 0.0)}, {"original": new})

    assert "FE exact match" in notes(table)[1]


def test_markdown_lines_up_and_leads_with_utility_at_equal_forgetting():
    """A column that is empty throughout is left out, but for utility at three quarters."""
    expected = """\
| method   | UT@.50 | UT@.75 | area |        FE ↓ |        UT ↑ | loss | trained | seconds |
| :------- | -----: | -----: | ---: | ----------: | ----------: | ---: | ------: | ------: |
| original |      - |      - |    - | 1.00 ± 0.03 | 1.00 ± 0.04 | 2.50 |   0.00% |    12.3 |
| full_ga  |   0.75 |      - | 0.88 | 0.25 ± 0.03 | 0.50 ± 0.04 | 2.50 | 100.00% |    12.3 |
| seuf_rmu |   0.75 |      - | 0.88 | 0.50 ± 0.03 | 1.00 ± 0.04 | 2.50 |   6.25% |    12.3 |

UT@.75: utility where a method's path"""

    assert markdown(comparison()).startswith(expected)


def test_the_table_fits_a_terminal_of_120_columns():
    whole = {
        **numbers(0.25, 0.5, 1.0),
        "retain": 0.75,
        "utility_at_75": 0.7,
        "utility_at_90": 0.6,
        "rouge_forget": 0.5,
        "seconds": 1234.5,
    }

    lines = markdown(comparison(contrast_ga_anchor=whole)).splitlines()

    assert lines[0].count("|") == 12
    assert max(len(line) for line in lines if line.startswith("|")) <= 120


def test_what_is_kept_has_a_column_only_beside_what_was_never_shown():
    assert "retain" not in readable(comparison())[0]
    assert "retain" in readable(comparison(full_ga={"retain": 0.9}))[0]


def test_what_is_measured_beside_is_a_table_of_its_own():
    rouge = {"rouge_forget": 0.125, "rouge_forget_stderr": 0.01, "rouge_retain": 0.5}

    headers, rows = further(comparison(full_ga=rouge))

    assert headers == [
        *("method", "loss@.50", "overlap forget", "overlap retain"),
        *("ROUGE-L forget ↓", "ROUGE-L retain ↑"),
    ]
    assert rows[1] == ["full_ga", "1.500", "0.500", "0.750", "0.125 ± 0.010", "0.500"]
    assert rows[0][-2:] == ["-", "-"]


def test_an_unknown_error_is_not_shown():
    unknown = {"forget_efficacy_stderr": float("nan")}

    assert "|        0.25 |" in markdown(comparison(full_ga=unknown))


def test_a_pipe_in_a_name_does_not_end_its_cell():
    table = comparison().replace({"method": {"full_ga": "full|ga"}})

    assert "| full\\|ga |" in markdown(table)


def scored(selection: str | None, objective: str = "rmu") -> dict[str, Any]:
    """Return scores of a method."""
    method = {"scope": "experts", "selection": selection, "objective": objective}
    return scores(0.5, 0.5, 0.1) | {"method": method}


DRAWN = {
    "original": scores(1.0, 1.0, 0.0) | {"method": {"scope": "nothing", "selection": None}},
    "seuf_rmu": scored("affinity"),
    "one": scored("random"),
    "two": scored("random_2"),
    "in_its_layer": scored("random_in:affinity"),
    "lonely": scored("random", "ga"),
}


def test_draws_differ_in_their_random_expert_alone():
    assert random_draws(DRAWN) == {"one": "one", "two": "one"}


def test_mean_and_deviation_are_told():
    """Forget .2 and .4: mean .3, deviation sqrt(2 * .1^2 / 1) = .141; utility .9 and .9."""
    metrics = {name: numbers(0.5, 0.5, 0.1) for name in DRAWN}
    metrics["one"] |= {"forget_efficacy": 0.2, "utility": 0.9}
    metrics["two"] |= {"forget_efficacy": 0.4, "utility": 0.9}
    table = comparison_table(metrics, DRAWN)

    told = spread_over_draws(table)

    assert told == [
        "Over 2 random experts (one, two): FE 0.300 ± 0.141, UT 0.900 ± 0.000 "
        "(mean ± standard deviation)."
    ]
    assert markdown(table).endswith(f"\n\n{told[0]}\n")


def test_without_draws_nothing_is_said():
    table = comparison_table({name: numbers(0.5, 0.5, 0.1) for name in DRAWN})

    assert spread_over_draws(table) == []
    assert "draws_of" not in table
