"""The paper's figures 1a, 2 and 3, and how methods look in them."""

import pytest

from seuf.reporting.comparison import comparison_table
from seuf.reporting.figures import (
    COLOURS,
    counted,
    efficacy_utility,
    kept_curve,
    layers_to_draw,
    method_styles,
    overlap_over_steps,
    ranked_shares,
    rules_by_expert,
    tokens_per_expert,
)
from tests.reporting.examples import SELECTED, comparison, log, numbers, routing

LOGS = {
    "original": log(),
    "full_ga": log((0.1, 5, 0.25, 0.5, 0.75)),
    "seuf_rmu": log((0.1, 5, 0.75, 1.0, 1.0)),
}


def named(figure, name):
    """Return the traces with data that bear the name."""
    return [trace for trace in figure.data if trace.name == name and trace.x != (None,)]


def test_a_marker_lies_at_forget_accuracy_and_utility():
    (marker,) = named(efficacy_utility(comparison()), "seuf_rmu")

    assert (marker.x, marker.y) == ((0.5,), (1.0,))
    assert (marker.error_x.array, marker.error_y.array) == ((0.03,), (0.04,))


def test_the_ideal_guesses_what_is_forgotten_and_knows_the_rest():
    (ideal,) = named(efficacy_utility(comparison()), "the ideal")

    assert (ideal.x, ideal.y) == ((0.25,), (1.0,))


def test_without_chance_there_is_no_ideal():
    unknown = comparison().assign(chance=float("nan"))

    assert not named(efficacy_utility(unknown), "the ideal")


def test_a_mark_without_known_error_has_no_bar():
    unknown = comparison(full_ga={"utility_stderr": float("nan")})

    (marker,) = named(efficacy_utility(unknown), "full_ga")

    assert marker.error_y.array is None


def test_experts_are_ranked_by_their_share_of_the_forget_set():
    shares = ranked_shares(routing([0.2, 0.3, 0.5]), routing([0.6, 0.4, 0.0]), layer=1)

    assert list(shares.index) == [2, 1, 0]
    assert shares["forget"].tolist() == [0.5, 0.3, 0.2]
    assert shares["retain"].tolist() == [0.0, 0.4, 0.6]


def test_an_expert_knows_all_rules_that_chose_it():
    assert rules_by_expert(SELECTED) == {(1, 3): ["affinity", "by_hand"]}


def test_only_layers_of_selected_experts_have_a_panel():
    figure = tokens_per_expert(routing([0.1, 0.2, 0.3, 0.4]), routing([0.25] * 4), SELECTED)

    assert [trace.name for trace in figure.data] == ["forget set", "retain set"]
    assert figure.data[0].x == ("3", "2", "1", "0")


def choice(*experts):
    """Return what a rule chose, by experts alone."""
    return {"experts": [list(expert) for expert in experts]}


def test_a_rule_of_many_experts_asks_for_no_panel_but_is_marked_in_those_there_are():
    """13 experts of layers 0 to 12 are many; of them one is in the layer of `affinity`."""
    many = choice(*((layer, 2) for layer in range(13)))

    figure = tokens_per_expert(routing([0.25] * 4), routing([0.25] * 4), {**SELECTED, "esft": many})

    marks = [note.text for note in figure.layout.annotations]
    assert marks == ["layer 1", "esft", "affinity, by_hand"]
    assert figure.layout.xaxis.title.text.endswith("first; layers not drawn: 12")


def test_without_any_other_rule_the_first_layers_of_many_are_drawn():
    """13 experts from layer 3 on."""
    assert layers_to_draw({"esft": choice(*((at, 0) for at in range(3, 16)))}) == [*range(3, 11)]


def test_of_many_layers_those_of_the_first_rules_are_drawn():
    ranks = {f"affinity_{rank}": choice((20 - rank, 0)) for rank in range(1, 13)}

    assert layers_to_draw(ranks) == [*range(12, 20)]


def test_nothing_is_said_of_layers_left_out_where_there_are_none():
    figure = tokens_per_expert(routing([0.25] * 4), routing([0.25] * 4), SELECTED)

    assert figure.layout.xaxis.title.text == "expert, most used on the forget set first"


def test_experts_are_counted_by_layer():
    assert counted([(1, 2), (1, 3), (4, 0)]) == "3 experts in 2 layers"
    assert counted([(1, 2), (1, 3)]) == "2 experts in 1 layer"


def test_the_arrow_points_at_the_bar_of_the_selected_expert():
    """Expert 3 takes least of the forget set: its bar is the last of four, at position 3."""
    forget, retain = routing([0.4, 0.3, 0.2, 0.1]), routing([0.1, 0.1, 0.1, 0.7])

    figure = tokens_per_expert(forget, retain, SELECTED)

    (arrow,) = [note for note in figure.layout.annotations if note.text == "affinity, by_hand"]
    assert (arrow.x, arrow.y) == (3, 0.7)


def test_the_curve_is_that_of_the_learning_rate_with_the_best_balance():
    """0.8 at step 5 of the second rate beats 0.7, the best of the first."""
    looks = log(
        (0.1, 5, 0.6, 0.9, 0.95),
        (0.1, 10, 0.7, 0.8, 0.9),
        (0.2, 5, 0.8, 0.7, 0.85),
        (0.2, 10, 0.5, 0.6, 0.8),
    )

    curve = kept_curve(looks)

    assert curve["step"].tolist() == [0, 5, 10]
    assert curve["forget"].tolist() == [1.0, 0.7, 0.6]
    assert curve["retain"].tolist() == [1.0, 0.85, 0.8]
    assert curve["kept"].tolist() == [False, True, False]


def test_of_equal_balances_the_first_was_kept():
    curve = kept_curve(log((0.1, 5, 0.5, 0.9, 0.9), (0.2, 5, 0.5, 0.8, 0.8)))

    assert curve["forget"].tolist() == [1.0, 0.9]


def test_a_step_that_broke_off_is_not_drawn():
    curve = kept_curve(log((0.1, 5, 0.5, 0.9, 0.9), (0.1, 7, None, None, None)))

    assert curve["step"].tolist() == [0, 5]


@pytest.mark.parametrize("empty", [log(), log((0.1, 1, None, None, None))])
def test_a_log_without_a_look_draws_nothing(empty):
    figure = overlap_over_steps(comparison(), dict.fromkeys(LOGS, empty))

    assert not [trace for trace in figure.data if trace.x != (None,)]


def test_each_method_is_drawn_on_both_sets():
    forget, retain = named(overlap_over_steps(comparison(), LOGS), "full_ga")

    assert (forget.x, forget.y) == ((0, 5), (1.0, 0.5))
    assert (retain.x, retain.y) == ((0, 5), (1.0, 0.75))


def test_the_dot_is_at_step_0_when_the_original_was_kept():
    unchanged = comparison(full_ga={"changed_tensors": 0})

    forget, _ = named(overlap_over_steps(unchanged, LOGS), "full_ga")

    assert forget.marker.size == (10, 0)


def test_an_objective_has_the_same_colour_in_all_figures():
    (marker,) = named(efficacy_utility(comparison()), "seuf_rmu")
    line, _ = named(overlap_over_steps(comparison(), LOGS), "seuf_rmu")

    assert marker.marker.color == line.line.color


def test_methods_of_objectives_that_nobody_has_heard_of_are_drawn_like_the_others():
    """A mark and a key entry for each objective and family, and a panel a family in each row."""
    rows = {name: numbers(0.5, 0.5, 0.5) for name in ("seuf_simnpo", "mine", "lora_task_vector")}
    table, logs = comparison_table(rows), dict.fromkeys(rows, log((0.1, 5, 0.5, 0.9, 0.9)))

    marks, lines = efficacy_utility(table), overlap_over_steps(table, logs)

    keys = [trace.name for trace in marks.data if trace.x == (None,)]
    assert keys == ["simnpo", "other", "vector", "seuf", "mine", "lora_task"]
    for name in rows:
        assert len(named(marks, name)) == 1
        assert len(named(lines, name)) == 2
    titles = [note.text for note in lines.layout.annotations]
    assert titles == ["seuf", "mine", "lora_task"]


def styles_of(*methods: str):
    return method_styles(comparison_table({method: numbers(0.5, 0.5, 0.5) for method in methods}))


def test_colour_is_the_objective_and_symbol_the_family():
    styles = styles_of("full_ga", "full_rmu", "seuf_ga")

    assert styles["full_ga"].colour == styles["seuf_ga"].colour != styles["full_rmu"].colour
    assert styles["full_ga"].symbol == styles["full_rmu"].symbol != styles["seuf_ga"].symbol


def test_the_family_is_all_before_the_last_underscore():
    style = styles_of("top_3_rmu")["top_3_rmu"]

    assert (style.family, style.objective) == ("top_3", "rmu")


def test_a_name_without_underscore_is_a_family():
    assert styles_of("lora")["lora"][:2] == ("lora", "other")
    assert styles_of("lora_")["lora_"][:2] == ("lora_", "other")


def test_the_original_is_a_cross_in_no_colour():
    style = method_styles(comparison())["original"]

    assert style.symbol == "x"
    assert style.colour not in COLOURS


def test_a_method_keeps_its_style_when_others_follow():
    alone, followed = styles_of("full_ga"), styles_of("full_ga", "seuf_rmu", "random_npo")

    assert followed["full_ga"] == alone["full_ga"]


def test_a_model_that_was_not_trained_here_is_a_black_cross():
    styles = method_styles(comparison(full_ga={"trained_share": float("nan")}))

    assert styles["full_ga"] == styles["original"]._replace(family="full_ga")
