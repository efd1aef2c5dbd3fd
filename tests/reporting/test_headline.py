"""What one expert keeps against everything, at equal forgetting."""

import re

import pandas as pd
import pytest

from seuf.forgetting import pack_right
from seuf.reporting.headline import (
    differences,
    differences_over_bases,
    differences_over_questions,
    headline,
    sentences,
)
from tests.reporting.examples import LOOKS, paths

STEEP, FLAT = ((1.0, 1.0), (0.25, 0.5)), ((1.0, 1.0), (0.25, 0.9))
HALFWAY = ((1.0, 1.0), (0.625, 0.9))
# At three quarters forgotten: steep .625, flat .925
STUDY = paths(full_ga=STEEP, seuf_ga=FLAT, seuf_rmu=STEEP, full_rmu=FLAT)


def at_three_quarters(found):
    """Return the differences at .75 by rule and objective."""
    return {(d.style.label, d.style.objective): d for d in found if d.target == 0.75}


def test_a_method_is_compared_with_everything_of_its_objective():
    """1 - .75 * .5 = .625 against 1 - .75 * .1 = .925."""
    found = at_three_quarters(differences(STUDY))

    assert found["affinity", "ga"].value == pytest.approx(0.925)
    assert found["affinity", "ga"].difference == pytest.approx(0.3)
    assert found["affinity", "rmu"].difference == pytest.approx(-0.3)
    assert found["everything", "ga"].difference is None


def test_where_one_of_the_two_does_not_get_there_nothing_is_compared():
    found = at_three_quarters(differences(paths(full_ga=HALFWAY, seuf_ga=FLAT)))

    assert found["everything", "ga"].value is None
    assert found["affinity", "ga"].value == pytest.approx(0.925)
    assert found["affinity", "ga"].difference is None


def test_of_several_runs_it_is_the_mean_and_the_count_of_those_that_reach():
    """.925 and .625 make .775; with a third run that stops halfway there is no difference."""
    two = pd.concat(
        [paths("a", full_ga=STEEP, seuf_ga=FLAT), paths("b", full_ga=STEEP, seuf_ga=STEEP)]
    )
    three = pd.concat([two, paths("c", full_ga=STEEP, seuf_ga=HALFWAY)])

    both, most = (at_three_quarters(differences(runs))["affinity", "ga"] for runs in (two, three))

    assert (both.value, both.difference) == pytest.approx((0.775, 0.15))
    assert both.reached == (2, 2)
    assert most.value == pytest.approx(0.775)
    assert (most.difference, most.reached) == (None, (2, 3))


def test_what_the_study_tells_of_a_difference_comes_first():
    told = {("seuf_ga", 0.75): (0.2, True)}

    one = at_three_quarters(differences(STUDY, told))["affinity", "ga"]

    assert (one.difference, one.is_clear) == (0.2, True)


def with_answers(table, forget, utility):
    """Return a method's path of three looks with its answers to six questions of each kind."""
    return table.assign(
        test_forget_right=[pack_right(of) for of in forget],
        test_utility_right=[pack_right(of) for of in utility],
        test_chance=0.0,
    )


def test_a_difference_on_every_question_is_clear_and_one_on_a_single_question_is_not():
    """All is forgotten at once; utility is then 0, or 1 of 6, or 6 of 6, for everything 0.

    In a sample of the six questions the one that is right has no part in a third of the cases
    ((5/6)^6 = .33), so the middle 95 % hold 0. At .75 the differences are .75 / 6 and .75.
    """
    all_right, none, one = [1] * 6, [0] * 6, [1, 0, 0, 0, 0, 0]
    looks, forget = ((1.0, 1.0), (0.0, 0.0)), (all_right, none)
    study = pd.concat(
        [
            with_answers(paths(full_ga=looks), forget, (all_right, none)),
            with_answers(paths(seuf_ga=looks), forget, (all_right, all_right)),
            with_answers(paths(contrast_ga=looks), forget, (all_right, one)),
        ]
    )

    told = differences_over_questions(study)

    assert told["seuf_ga", 0.75] == (pytest.approx(0.75), True)
    assert told["contrast_ga", 0.75] == (pytest.approx(0.75 / 6), False)
    assert ("full_ga", 0.75) not in told


def test_nothing_is_told_where_single_answers_were_not_kept():
    columns = {"test_forget_right": None, "test_utility_right": None}

    assert differences_over_questions(STUDY.assign(**columns)) == {}
    assert differences_over_questions(paths(original=()).assign(**columns)) == {}


def test_a_study_of_spread_tells_by_its_verdict_and_else_by_its_interval():
    comparisons = pd.DataFrame(
        [
            ("seuf_ga", "full_ga", 0.75, 0.2, 0.01, 0.39, "not told apart"),
            ("seuf_ga", "full_ga", 0.9, 0.2, 0.01, 0.39, None),
            ("seuf_rmu", "full_rmu", 0.75, -0.2, -0.3, -0.1, "loses"),
            ("seuf_rmu", "full_rmu", 0.9, float("nan"), 0.0, 0.0, None),
            ("seuf_ga", "seuf_rmu", 0.75, 0.2, 0.1, 0.3, "wins"),
        ],
        columns=["method", "against", "forgotten", "difference", "low", "high", "verdict"],
    )

    assert differences_over_bases(comparisons, STUDY) == {
        ("seuf_ga", 0.75): (0.2, False),
        ("seuf_ga", 0.9): (0.2, True),
        ("seuf_rmu", 0.75): (-0.2, True),
    }


def test_each_rule_has_a_sentence_whatever_comes_out():
    study = paths(full_ga=STEEP, seuf_ga=FLAT, contrast_ga=HALFWAY, seuf_rmu=STEEP, full_rmu=FLAT)

    assert sentences(differences(study)) == [
        "affinity, the paper's rule: more with GA (+0.30); less with RMU (\N{MINUS SIGN}0.30).",
        "contrast, affinity less that on the retain set: not reached with GA.",
    ]


def test_a_difference_that_may_be_chance_is_not_called_one():
    told = {("seuf_ga", 0.75): (0.3, False), ("seuf_rmu", 0.75): (-0.3, True)}

    (line,) = sentences(differences(STUDY, told))

    assert line.endswith("less with RMU (\N{MINUS SIGN}0.30); no clear difference with GA (+0.30).")


def test_a_study_that_states_comparisons_claims_no_other():
    told = {("seuf_ga", 0.75): (0.3, True)}

    (line,) = sentences(differences(STUDY, told))

    assert line.endswith(
        "more with GA (+0.30); not among the comparisons stated beforehand with RMU "
        "(\N{MINUS SIGN}0.30)."
    )


def test_everything_that_does_not_get_there_is_said():
    (line,) = sentences(differences(paths(full_ga=HALFWAY, seuf_ga=FLAT)))

    assert line.endswith("reached by one expert alone with GA.")


def test_a_random_expert_and_many_experts_have_no_sentence():
    study = paths(full_rmu=FLAT, random_rmu=FLAT, seuf_rmu=FLAT)
    many = study.assign(experts=study["experts"].where(study["method"] != "seuf_rmu", "1:3 1:4"))

    assert sentences(differences(many)) == []
    assert "No method of this study trains one expert." in headline(many)


def test_the_tables_show_value_and_difference_in_colour_only_where_it_is_clear():
    told = {("seuf_ga", 0.75): (0.3, True), ("seuf_rmu", 0.75): (-0.3, False)}

    page = headline(STUDY, told)

    assert "Utility where .75 is forgotten" in page
    assert "Utility where .9 is forgotten" in page
    assert '<td>0.93<br><small class="more">+0.30</small></td>' in page
    assert "<td>0.62<br><small>\N{MINUS SIGN}0.30</small></td>" in page
    assert "95 % interval" in page
    assert "95 % interval" not in headline(STUDY)


def test_a_table_has_a_row_for_who_is_trained_and_a_column_an_objective():
    """Few objectives, many rules: so it is never too wide."""
    page = headline(paths(seuf_rmu=FLAT, full_ga=FLAT, seuf_ga=FLAT))

    assert "<th></th><th>RMU</th><th>GA</th>" in page
    rows = page.split("<tbody>")[1].split("</tbody>")[0].split("</tr>")
    assert [line.split("<td>")[1] for line in rows[:2]] == ["everything</td>", "affinity</td>"]
    assert rows[0].count("<td></td>") == 1


def test_everything_is_not_one_expert_where_the_paths_come_from_a_file(tmp_path):
    STUDY.to_csv(tmp_path / "paths.csv", index=False)

    lines = sentences(differences(pd.read_csv(tmp_path / "paths.csv")))

    assert [line.partition(",")[0] for line in lines] == ["affinity"]


def test_a_study_that_changed_nothing_says_so():
    assert "No method changed the model" in headline(paths(original=()))


def test_a_path_without_test_questions_is_no_path():
    unasked = paths(full_ga=LOOKS).assign(test_forgotten=float("nan"))

    assert differences(unasked) == []


def test_in_the_table_everything_and_the_rules_of_the_sentences_come_first():
    names = ("esft", "random", "pilot", "contrast", "lora", "affinity")

    page = headline(paths(**{f"{name}_ga": FLAT for name in names}, full_ga=STEEP))

    shown = re.findall("<tr><td>(.*?)</td>", page)[:7]
    assert shown == ["everything", "affinity", "contrast", "pilot", "ESFT", "random", "LoRA"]
