"""Methods at equal forgetting over base models, and the comparisons stated beforehand."""

from typing import Any

import pandas as pd
import pytest

from seuf.forgetting import pack_right
from seuf.reporting import spread
from seuf.reporting.statistics import Estimate

BASES, SEEDS = ("base_0", "base_1", "base_2"), (0, 1)
CHOSEN = {"seuf": 1e-3, "full": 1e-3}
OF_PATH = ["base", "seed", "method", "learning_rate"]


def right(count: int, of: int = 20) -> str:
    return pack_right([1] * count + [0] * (of - count))


def path_of(name: str, base: str, seed: int, rate: float, *looks: tuple[int, int]) -> list[dict]:
    """Return evaluations at which so many of 20 forget and utility questions are right."""
    about = dict(zip(OF_PATH, (base, seed, name, rate), strict=True))
    return [
        {
            **about,
            "test_forget_efficacy": forget / 20,
            "test_utility": utility / 20,
            "test_chance": 0.0,
            "test_forget_right": right(forget),
            "test_utility_right": right(utility),
        }
        for forget, utility in looks
    ]


def run_of(name: str, base: str, seed: int, rate: float, **changes: Any) -> dict[str, Any]:
    numbers = dict.fromkeys([*spread.GENERAL_LOSS, *spread.PLAIN], 0.5)
    about = dict(zip(OF_PATH, (base, seed, name, rate), strict=True))
    return {**about, **numbers, "same_as": None, **changes}


def study(full: int = 10, seuf: int = 18, **of_seuf: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return runs and paths of a method that leaves `full` and one that leaves `seuf` of 20.

    Each base has one right answer more than the one before it; all is forgotten at once.
    """
    runs, paths = [], []
    for number, base in enumerate(BASES):
        for seed in SEEDS:
            for name, left, changes in (("full", full, {}), ("seuf", seuf, of_seuf)):
                runs.append(run_of(name, base, seed, 1e-3, **changes))
                looks = (20, 20), (0, min(left + number, 20))
                paths += path_of(name, base, seed, 1e-3, *looks)
    return pd.DataFrame(runs), pd.DataFrame(paths)


def summarised(
    runs: pd.DataFrame, paths: pd.DataFrame, chosen: dict[str, float] = CHOSEN
) -> spread.Spread:
    return spread.summarise(runs, paths, chosen, [("seuf", "full")], 0.75)


def of_method(tables: spread.Spread, name: str) -> pd.Series:
    return tables.methods.set_index("method").loc[name]


def test_utility_is_the_mean_over_bases_at_equal_forgetting():
    """`full` leaves 10, 11, 12 of 20: .55; at three quarters forgotten 1 - .75 x .45 = .6625."""
    row = of_method(summarised(*study()), "full")

    assert row["utility_at_75"] == pytest.approx(0.6625)
    assert row["utility_at_75_low"] < 0.6625 < row["utility_at_75_high"]
    assert (row["bases"], row["runs"], row["reached_75"]) == (3, 6, 6)


def test_runs_that_do_not_forget_so_much_are_counted_and_left_out():
    """On base_2 `seuf` stops at half: of its runs four of six reach three quarters."""
    runs, paths = study()
    stops = (paths["base"] == "base_2") & (paths["method"] == "seuf") & (paths.index % 2 == 1)
    paths.loc[stops, "test_forget_right"] = right(10)

    tables = summarised(runs, paths)
    compared = tables.comparisons.set_index("forgotten").loc[0.75]

    assert of_method(tables, "seuf")["reached_75"] == 4
    assert of_method(tables, "seuf")["reached_50"] == 6
    assert (compared["bases"], compared["pairs_reached"], compared["pairs"]) == (2, 4, 6)


def test_only_runs_at_the_chosen_learning_rate_count():
    runs, paths = study()
    other = pd.DataFrame([run_of("full", "base_0", 0, 1e-2, utility=9.0)])
    its_path = pd.DataFrame(path_of("full", "base_0", 0, 1e-2, (20, 20), (0, 0)))

    more = summarised(pd.concat([runs, other]), pd.concat([paths, its_path]))

    assert of_method(more, "full")["utility"] == pytest.approx(0.5)
    assert of_method(more, "full")["utility_at_75"] == pytest.approx(0.6625)


def test_a_learning_rate_at_the_edge_of_those_tried_is_marked():
    """`full` tried 1e-4, 1e-3, 1e-2 and took the middle one; `seuf` took the greatest of two."""
    runs, _ = study()
    tried = [("full", 1e-4), ("full", 1e-2), ("seuf", 1e-4)]
    others = pd.DataFrame([run_of(name, "base_0", 0, rate) for name, rate in tried])

    assert spread.methods_at_edge(pd.concat([runs, others]), CHOSEN) == ["seuf"]


def test_a_base_counts_once_however_many_runs_it_has():
    """.1 for all runs of base_0 and .4 for the one run of base_1: .25."""
    runs = pd.DataFrame(
        [run_of("full", "base_0", seed, 1e-3, seconds=0.1) for seed in range(5)]
        + [run_of("full", "base_1", 0, 1e-3, seconds=0.4)]
    )
    paths = pd.DataFrame(path_of("full", "base_0", 0, 1e-3, (20, 20), (0, 10)))

    tables = spread.summarise(runs, paths, {"full": 1e-3}, [], 0.75)

    assert of_method(tables, "full")["seconds"] == pytest.approx(0.25)


def test_the_original_has_no_learning_rate_and_stands_beside():
    runs, paths = study()
    original = pd.DataFrame([run_of("original", base, 0, float("nan")) for base in BASES])
    looks = [row for base in BASES for row in path_of("original", base, 0, float("nan"), (20, 20))]

    tables = summarised(pd.concat([runs, original]), pd.concat([paths, pd.DataFrame(looks)]))

    row = of_method(tables, "original")
    assert (row["runs"], row["reached_50"], row["at_edge"]) == (3, 0, False)
    (row,) = [cells for cells in spread.readable_methods(tables.methods)[1] if "original" in cells]
    assert row[1:3] == ["-", "0/3"]


def test_a_difference_that_is_the_same_on_every_base_wins():
    """18 + n against 10 + n of 20, but at most 20: .4 less at the end, .3 at three quarters."""
    tables = summarised(*study(full=8, seuf=16))

    compared = tables.comparisons.set_index("forgotten").loc[0.75]

    assert compared["difference"] == pytest.approx(0.75 * 0.4)
    assert compared["verdict"] == "wins"
    assert compared["holm_p"] < 0.05


def test_only_one_share_forgotten_has_verdicts():
    table = summarised(*study()).comparisons.set_index("forgotten")

    assert table["verdict"].notna().to_dict() == {0.75: True, 0.5: False, 0.9: False}
    assert table["holm_p"].notna().to_dict() == {0.75: True, 0.5: False, 0.9: False}


def test_runs_that_are_the_same_run_are_told():
    """`seuf` chose what `full` has on every base: no difference, and no doubt about it."""
    runs, paths = study(full=10, seuf=10, same_as="full")

    compared = summarised(runs, paths).comparisons.iloc[0]

    assert compared["same_run"] == 6
    assert (compared["difference"], compared["low"], compared["high"]) == (0, 0, 0)
    assert compared["verdict"] == "not told apart"


def test_two_rates_of_the_same_expert_are_not_the_same_run():
    """At 1e-2 `seuf` was the run of `full` there, but `full` was given 1e-3."""
    runs, paths = study(same_as="full")
    is_seuf = runs["method"] == "seuf", paths["method"] == "seuf"
    runs.loc[is_seuf[0], "learning_rate"] = paths.loc[is_seuf[1], "learning_rate"] = 1e-2

    compared = summarised(runs, paths, CHOSEN | {"seuf": 1e-2}).comparisons.iloc[0]

    assert compared["same_run"] == 0


@pytest.mark.parametrize(
    ("mean", "holm_p", "bases", "word"),
    [
        (0.1, 0.049, 5, "wins"),
        (-0.1, 0.049, 5, "loses"),
        (0.1, 0.05, 5, "not told apart"),
        (0.1, 1.0, 1, "not reached"),
        (float("nan"), 1.0, 0, "not reached"),
    ],
)
def test_the_verdict_is_one_of_four(mean, holm_p, bases, word):
    assert spread.verdict(Estimate(mean, 0, 0, holm_p, bases), holm_p) == word


def test_where_answers_were_not_kept_their_mean_is_read():
    """Without them intervals are those over bases alone, and the means are the same."""
    runs, paths = study()
    packed = ["test_forget_right", "test_utility_right"]

    row = of_method(summarised(runs, paths.assign(**dict.fromkeys(packed))), "full")

    assert row["utility_at_75"] == pytest.approx(0.6625)


def test_a_line_tells_mean_interval_and_how_many_reached():
    lines = spread.markdown(summarised(*study())).splitlines()

    assert lines[2].startswith("| full   | 0.66 [")
    assert "|  6/6 |" in lines[2]
    assert lines[2].endswith("| 0.50 | 0.50 | 0.50 |   50.0% | 0.001 |")


def test_a_comparison_is_told_with_its_verdict():
    text = spread.markdown(summarised(*study(full=8, seuf=16)))

    assert "| seuf - full           |    wins | 0.0" in text
    assert "| +0.30 [" in text


def test_numbers_that_were_not_measured_are_left_out_of_the_metrics():
    runs, paths = study()
    numbers = spread.metrics(summarised(runs.assign(general_loss=None), paths).methods)

    assert "general_loss" not in numbers["seuf"]
    assert numbers["seuf"]["learning_rate"] == 1e-3


def test_the_tables_of_the_bases_become_one():
    """Tables are named by base; they come of the grid and then of the other seeds."""
    names = ["a.grid_runs", "b.grid_runs", "a.seed_runs", "b.seed_runs"]

    whole = spread.merged({name: pd.DataFrame({"seed": [n]}) for n, name in enumerate(names)})

    assert list(whole.columns) == ["base", "seed"]
    assert whole["base"].tolist() == ["a", "b", "a", "b"]


def test_paths_say_which_learning_rate_was_chosen():
    paths = pd.DataFrame(
        path_of("full", "base_0", 0, 1e-2, (20, 20)) + path_of("full", "base_0", 0, 1e-3, (20, 20))
    )
    paths = paths.assign(objective="ga", scope="everything", selection=None, experts=None)

    tidy = spread.tidy_paths(paths, CHOSEN)

    assert tidy["chosen"].tolist() == [False, True]
    assert list(tidy.columns[:9]) == [*spread.ABOUT_RUN, "learning_rate"]


def test_an_interval_of_utility_ends_where_utility_does():
    """.2, .6, 1 at the end: .6 +- .99 by Student's t of two degrees of freedom."""
    runs, paths = [], []
    for base, left in zip(BASES, (4, 12, 20), strict=True):
        runs.append(run_of("full", base, 0, 1e-3))
        paths += path_of("full", base, 0, 1e-3, (20, 20), (2, left))

    row = of_method(
        spread.summarise(pd.DataFrame(runs), pd.DataFrame(paths), {"full": 1e-3}, [], 0.75), "full"
    )

    assert (row["utility_at_90_low"], row["utility_at_90_high"]) == (0, 1)
