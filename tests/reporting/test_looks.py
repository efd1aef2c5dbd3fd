"""A method looks the same everywhere."""

from seuf.reporting.comparison import comparison_table
from seuf.reporting.figures import COLOURS, looks
from tests.reporting.examples import comparison, numbers


def looks_of(*methods: str):
    return looks(comparison_table({method: numbers(0.5, 0.5, 0.5) for method in methods}))


def test_colour_is_the_objective_and_symbol_the_family():
    seen = looks_of("full_ga", "full_rmu", "seuf_ga")

    assert seen["full_ga"].colour == seen["seuf_ga"].colour != seen["full_rmu"].colour
    assert seen["full_ga"].symbol == seen["full_rmu"].symbol != seen["seuf_ga"].symbol


def test_the_family_is_all_before_the_last_underscore():
    look = looks_of("top_3_rmu")["top_3_rmu"]

    assert (look.family, look.objective) == ("top_3", "rmu")


def test_a_name_without_underscore_is_a_family():
    assert looks_of("lora")["lora"][:2] == ("lora", "other")


def test_the_original_is_a_cross_in_no_colour():
    look = looks(comparison())["original"]

    assert look.symbol == "x"
    assert look.colour not in COLOURS


def test_a_method_keeps_its_look_when_others_follow():
    alone, followed = looks_of("full_ga"), looks_of("full_ga", "seuf_rmu", "random_npo")

    assert followed["full_ga"] == alone["full_ga"]


def test_a_model_that_was_not_trained_here_is_a_black_cross():
    seen = looks(comparison(full_ga={"trained_share": float("nan")}))

    assert seen["full_ga"] == seen["original"]._replace(family="full_ga")
