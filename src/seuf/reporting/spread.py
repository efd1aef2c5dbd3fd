"""The tables of a study of spread: methods at equal forgetting, and its planned comparisons.

Every number is a mean over base models, each counting once by the mean over its seeds.
`seuf.reporting.statistics` explains intervals and p values, and what they cannot show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from seuf.forgetting import TARGETS, unpack_right
from seuf.reporting.comparison import ABOUT_RUN, aligned, number
from seuf.reporting.statistics import Estimate, Path, Paths, RunKey, holm

RUN = ["method", "base", "seed"]
SHOWN = TARGETS[1:]  # the shares forgotten in tables for people
Table = tuple[list[str], list[list[str]]]  # headers and rows, as text
SIGNIFICANT = 0.05  # level of p values adjusted by Holm
# Means over bases beside those at equal forgetting; the first four are the kept checkpoint's.
PLAIN = ["utility", "forget_efficacy", "retain", "general_loss", "area", "trained_share", "seconds"]
GENERAL_LOSS = [f"general_loss_at_{100 * target:g}" for target in TARGETS]


class Spread(NamedTuple):
    """The two tables of a study: one row a method, and one row a comparison and share forgotten."""

    methods: pd.DataFrame
    comparisons: pd.DataFrame


def merged(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the tables of all bases as one, whose first column is `base`.

    Args:
        tables: By a name that begins with the base's and a dot.
    """
    named = (table.assign(base=name.partition(".")[0]) for name, table in tables.items())
    whole = pd.concat(list(named), ignore_index=True)
    return whole[["base", *whole.columns.drop("base")]]


def at_chosen_rate(table: pd.DataFrame, learning_rates: Mapping[str, float]) -> pd.Series:
    """Return which rows have their method's chosen learning rate; all of a method without one."""
    chosen = table["method"].map(learning_rates)
    return chosen.isna() | (table["learning_rate"] == chosen)


def tidy_paths(paths: pd.DataFrame, learning_rates: Mapping[str, float]) -> pd.DataFrame:
    """Return the paths with `chosen`: whether a row has its method's chosen learning rate."""
    paths = paths.assign(chosen=at_chosen_rate(paths, learning_rates))
    return paths[[*ABOUT_RUN, *paths.columns.drop(ABOUT_RUN)]]


def methods_at_edge(grid_runs: pd.DataFrame, learning_rates: Mapping[str, float]) -> list[str]:
    """Return the methods whose learning rate is at the edge of their grid."""
    rates = {str(name): column for name, column in grid_runs.groupby("method")["learning_rate"]}
    return [
        name
        for name, rate in learning_rates.items()
        if rates[name].nunique() > 1 and rate in (rates[name].min(), rates[name].max())
    ]


def summarise(
    runs: pd.DataFrame,
    paths: pd.DataFrame,
    learning_rates: Mapping[str, float],
    comparisons: Sequence[tuple[str, str]],
    compare_at: float,
) -> Spread:
    """Return each method's means with intervals, and the differences of the methods compared.

    Args:
        runs: One row a run, see `seuf.unlearning.replication.replicate`, and its `base`.
        paths: One row an evaluation of a run, the original's first, and its `base`.
        learning_rates: The learning rate chosen for each method.
        comparisons: Pairs of methods, stated before the study.
        compare_at: Share forgotten at which all pairs are tested together by Holm's procedure; at
            the other shares there are intervals and no verdicts.
    """
    kept = runs[at_chosen_rate(runs, learning_rates)]
    by_run: Any = paths[at_chosen_rate(paths, learning_rates)].groupby(RUN, sort=False)
    answers = {RunKey(*key): answers_of(path) for key, path in by_run}
    read = Paths.of(answers, TARGETS)
    at_edge = methods_at_edge(runs, learning_rates)
    methods = [
        {
            "method": name,
            "learning_rate": learning_rates.get(str(name), np.nan),
            "at_edge": name in at_edge,
            "bases": group["base"].nunique(),
            "runs": len(group),
            **_at_equal_forgetting(read, str(name)),
            **{column: _over_bases(group, column) for column in (*GENERAL_LOSS, *PLAIN)},
        }
        for name, group in kept.groupby("method", sort=False)
    ]
    return Spread(pd.DataFrame(methods), _compared(read, kept, comparisons, compare_at))


def answers_of(path: pd.DataFrame) -> Path:
    """Return the test answers of a run; where these were not recorded, their mean as one answer."""
    path = path[path["test_forget_efficacy"].notna()]
    forget, utility = (
        np.array([unpack_right(packed) for packed in path[f"test_{name}_right"]], dtype=float)
        if path[f"test_{name}_right"].notna().all()
        else path[[mean]].to_numpy(dtype=float)
        for name, mean in (("forget", "test_forget_efficacy"), ("utility", "test_utility"))
    )
    return Path(forget, utility, float(path["test_chance"].iloc[0]))


def _at_equal_forgetting(read: Paths, method: str) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    for target in TARGETS:
        found, name = read.utility(method, target), f"utility_at_{100 * target:g}"
        low, high = np.clip([found.low, found.high], 0, 1)  # the range of utility
        numbers |= {name: found.mean, f"{name}_low": low, f"{name}_high": high}
        numbers[f"reached_{100 * target:g}"] = int(read.reached(method, target=target).sum())
    return numbers


def _over_bases(runs: pd.DataFrame, column: str) -> float:
    return float(runs.groupby("base")[column].mean().mean())


def _compared(
    read: Paths, kept: pd.DataFrame, comparisons: Sequence[tuple[str, str]], compare_at: float
) -> pd.DataFrame:
    """Return one row a comparison and share forgotten; see `summarise`."""
    same_as = zip(kept["same_as"].fillna(kept["method"]), kept["learning_rate"], strict=True)
    training_of = dict(zip(kept[RUN].itertuples(index=False, name=None), same_as, strict=True))
    found = {
        (one, other, target): read.difference(one, other, target)
        for target in (compare_at, *(other for other in TARGETS if other != compare_at))
        for one, other in comparisons
    }
    adjusted = holm([of.p for (_, _, target), of in found.items() if target == compare_at])
    rows = []
    for position, ((one, other, target), difference) in enumerate(found.items()):
        is_tested = target == compare_at
        pairs = [
            (training_of[one, base, seed], training_of[other, base, seed])
            for method, base, seed in training_of
            if method == one and (other, base, seed) in training_of
        ]
        rows.append(
            {
                "method": one,
                "against": other,
                "forgotten": target,
                "difference": difference.mean,
                "low": difference.low,
                "high": difference.high,
                "p": difference.p,
                "holm_p": adjusted[position] if is_tested else None,
                "verdict": verdict(difference, adjusted[position]) if is_tested else None,
                "bases": difference.bases,
                "pairs_reached": int(read.reached(one, other, target=target).sum()),
                "pairs": len(pairs),
                "same_run": sum(first == second for first, second in pairs),
            }
        )
    return pd.DataFrame(rows)


def verdict(difference: Estimate, holm_p: float) -> str:
    """Return `wins`, `loses`, `not told apart`, or `not reached` by both on at least two bases."""
    if difference.bases < 2:
        return "not reached"
    if holm_p >= SIGNIFICANT:
        return "not told apart"
    return "wins" if difference.mean > 0 else "loses"


def metrics(methods: pd.DataFrame) -> dict[str, Any]:
    """Return the table of methods as {method: {measure: value}}, for `dvc metrics`."""
    return {
        str(row.pop("method")): {key: value for key, value in row.items() if pd.notna(value)}
        for row in _rows(methods)
    }


def markdown(spread: Spread) -> str:
    """Return both tables in Markdown, with notes."""
    lines = aligned(*readable_methods(spread.methods))
    if len(spread.comparisons):
        lines += ["", *aligned(*readable_comparisons(spread.comparisons))]
    return "\n".join([*lines, *(f"\n{sentence}" for sentence in notes(spread))]) + "\n"


def readable_methods(methods: pd.DataFrame) -> Table:
    """Return headers and a row of text for each method, narrow enough for a terminal."""
    names = [f"{100 * target:g}" for target in SHOWN]
    heads = [head for name in names for head in (f"UT@.{name}", "runs")]
    rows = []
    for row in _rows(methods):
        rate = "-" if pd.isna(row["learning_rate"]) else f"{row['learning_rate']:g}"
        at_targets = [
            cell
            for name in names
            for cell in (
                _interval(*(row[f"utility_at_{name}{end}"] for end in ("", "_low", "_high"))),
                f"{row[f'reached_{name}']}/{row['runs']}",
            )
        ]
        rows.append(
            [
                str(row["method"]),
                *at_targets,
                *(number(row[name], ".2f") for name in ("general_loss_at_75", *PLAIN[:2])),
                f"{row['trained_share']:.1%}",
                f"{rate} (edge)" if row["at_edge"] else rate,
            ]
        )
    return ["method", *heads, "loss", "UT", "FE", "trained", "lr"], rows


def readable_comparisons(comparisons: pd.DataFrame) -> Table:
    """Return headers and a row of text for each pair of methods, the verdict first."""
    by_pair: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in _rows(comparisons):
        by_pair.setdefault((row["method"], row["against"]), []).append(row)
    at = next(iter(by_pair.values()))
    heads = [head for row in at for head in (f"at .{100 * row['forgotten']:g}", "pairs")]
    cells = [
        [
            f"{one} - {other}",
            rows[0]["verdict"],
            f"{rows[0]['holm_p']:.3f}",
            *(
                cell
                for row in rows
                for cell in (
                    _interval(row["difference"], row["low"], row["high"], "+.2f"),
                    f"{row['pairs_reached']}/{row['pairs']}",
                )
            ),
            str(rows[0]["same_run"]),
        ]
        for (one, other), rows in by_pair.items()
    ]
    return ["difference in utility", "verdict", "p", *heads, "same run"], cells


def notes(spread: Spread) -> list[str]:
    """Return notes on the tables."""
    bases, runs = spread.methods["bases"].max(), spread.methods["runs"].max()
    sentences = [
        f"Test questions of {bases} base models, {runs} runs a method. UT@.75: utility where "
        "a path has first gone .75 of the way from the original's FE to guessing, over the runs "
        "that reach it. Loss: nats a token of other text there. UT, FE: the kept checkpoint.",
        "In brackets 95 % intervals over base models and questions.",
    ]
    if len(spread.comparisons):
        sentences.append("p: after Holm. A pair of runs counts where both forget so much.")
    return sentences


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [dict(zip(table.columns, row, strict=True)) for row in table.itertuples(index=False)]


def _interval(value: float, low: float, high: float, form: str = ".2f") -> str:
    ends = "" if pd.isna(low) else f" [{low:{form}}, {high:{form}}]"
    return number(value, form) + ends
