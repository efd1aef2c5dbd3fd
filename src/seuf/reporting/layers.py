"""What one expert of each layer keeps: the table of a sweep.

A sweep (`unlearning.settings.PilotSettings`) trains the best expert of every layer by one rule or
several, each a row `pilot` of the table of methods. Utility and general loss are read off the paths
on the test questions where they first forget `LAYERS_AT`, interpolated between two evaluations. A
path that does not forget that much has no number.

Of a layer's learning rates the one counts that keeps most on the selection questions. If a sweep
leaves out the layer that affinity or contrast chose (`pilot.every`), the number there comes from
that method's own run and is marked `own_run`.

Intervals over several bases are those of `seuf.reporting.statistics`, over bases and questions; for
one base they are over questions only. `seuf.reporting.layer_figure` draws the table.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from seuf.forgetting import LAYERS_AT, outcome, rank_of_outcome
from seuf.reporting.comparison import pairs_of
from seuf.reporting.spread import answers_of
from seuf.reporting.statistics import Path, Paths, RunKey
from seuf.reporting.styles import EVERYTHING, method_styles

ALL = "all"  # the name of all bases together
ORIGINAL = "original"
PILOT = "pilot"
OWN_RUN = "own_run"
READ = {"utility": "test_utility", "general_loss": "general_loss"}  # at LAYERS_AT, of a path
NUMBERS = [f"{name}_at_{100 * LAYERS_AT:g}{end}" for name in READ for end in ("", "_low", "_high")]
ABOUT_LAYER = ["objective", "rule", "base", "layer", "expert", "learning_rate"]
COLUMNS = [*ABOUT_LAYER, *NUMBERS, "reached", "bases", "chosen_by"]


class Series(NamedTuple):
    """The runs that become one row a base: a rule in a layer, or training everything."""

    objective: str
    rule: str
    layer: int | None


def layer_table(trials: pd.DataFrame, paths: pd.DataFrame) -> pd.DataFrame:
    """Return what one expert of each layer keeps: a row a base, and one over several bases.

    The rows to compare with, of the rules `everything` and `original`, have no layer.

    Args:
        trials: Of one sweep or of several: `base`, `seed`, `objective`, `rule`, `layer`, `expert`,
            `chosen` and the columns of a log.
        paths: Of the study's methods, see `seuf.reporting.comparison.ABOUT_RUN`.

    Returns:
        `COLUMNS`. Numbers are missing where the share is not reached. `reached` counts the `bases`
        on which it is; `chosen_by` names which of affinity, contrast and the pilot chose the layer,
        with `own_run` where the sweep leaves it out.
    """
    about, found = _best_trials(trials)
    about_own, own = _runs_beside({series for series, *_ in found}, paths)
    objectives = list(dict.fromkeys(trials["objective"]))
    for method, style in method_styles(paths).items():
        if style.label == EVERYTHING and style.objective in objectives:
            runs = paths[paths["method"].eq(method) & paths["chosen"].eq(True)]
            by_run: Any = runs.groupby(["base", "seed"], sort=False)
            for (base, seed), path in by_run:
                key = Series(style.objective, EVERYTHING, None), str(base), int(seed)
                found[key] = path.sort_values("step")
    found, about, beside = found | own, about | about_own, {series for series, _ in about_own}
    bases = list(dict.fromkeys(trials["base"].astype(str)))
    rows = [row for objective in objectives for row in _original(paths, objective, bases)]
    read = {name: _read(found, column) for name, column in READ.items()}
    for series in dict.fromkeys(series for series, *_ in found):
        reached = 0
        for base in bases:
            if series in beside and (series, base) not in about:
                continue
            row = {**series._asdict(), "base": base, **about.get((series, base), {}), "bases": 1}
            for name, of in read.items():
                row |= _numbers(of, name, series, base)
            row["reached"] = int(not pd.isna(row[NUMBERS[0]]))
            reached += row["reached"]
            rows.append(row)
        if len(bases) > 1 and series not in beside:
            over_all = {"base": ALL, "reached": reached, "bases": len(bases)}
            for name, of in read.items():
                over_all |= _numbers(of, name, series)
            rows.append(series._asdict() | over_all)
    table = pd.DataFrame(rows, columns=COLUMNS)
    table["chosen_by"] = _chosen_by(table, trials, paths, own=about_own)
    return table.astype({"layer": "Int64"})


def _best_trials(
    trials: pd.DataFrame,
) -> tuple[dict[tuple[Series, str], dict[str, Any]], dict[tuple[Series, str, int], pd.DataFrame]]:
    """Return the expert, the rate and the path of each layer's best learning rate."""
    about, found = {}, {}
    evaluated = trials.dropna(subset=["forgotten"])
    by_layer: Any = evaluated.groupby(["objective", "rule", "layer", "base", "seed"], sort=False)
    for (objective, rule, layer, base, seed), rows in by_layer:
        rates: list[pd.DataFrame] = [
            path.sort_values("step") for _, path in rows.groupby("learning_rate")
        ]
        best = max(
            rates,
            key=lambda path: rank_of_outcome(outcome(path.to_dict("records"), LAYERS_AT)),  # type: ignore[arg-type]
        )
        series, first = Series(str(objective), str(rule), int(layer)), best.iloc[0]
        found[series, str(base), int(seed)] = best
        about[series, str(base)] = {name: first[name] for name in ("expert", "learning_rate")}
    return about, found


def _runs_beside(
    swept: Collection[Series], paths: pd.DataFrame
) -> tuple[dict[tuple[Series, str], dict[str, Any]], dict[tuple[Series, str, int], pd.DataFrame]]:
    """Return the same for runs of affinity and contrast in a layer that the sweep leaves out."""
    about, found = {}, {}
    rules = {(series.objective, series.rule) for series in swept}
    chosen = paths[paths["chosen"].eq(True) & paths["selection"].isin(["affinity", "contrast"])]
    by_run: Any = chosen.groupby(["objective", "selection", "base", "seed", "experts"], sort=False)
    for (objective, rule, base, seed, experts), path in by_run:
        layers, numbers = zip(*pairs_of(experts), strict=True)
        series = Series(str(objective), str(rule), layers[0])
        if (objective, rule) in rules and len({*layers}) == 1 and series not in swept:
            found[series, str(base), int(seed)] = path.sort_values("step")
            rate = path["learning_rate"].iloc[-1]
            about[series, str(base)] = {"expert": numbers[0], "learning_rate": rate}
    return about, found


def _read(found: Mapping[tuple[Series, str, int], pd.DataFrame], column: str) -> Paths | None:
    """Return a test column read off all paths that have it; None if none does."""
    answers = {}
    for (series, base, seed), path in found.items():
        evaluated = path.dropna(subset=["test_forget_efficacy"])
        if evaluated[column].isna().any():
            continue
        answered = answers_of(path)
        if column != READ["utility"]:  # one number an evaluation, no questions to resample
            answered = Path(answered.forget, evaluated[[column]].to_numpy(float), answered.chance)
        answers[RunKey(str(series), base, seed)] = answered
    return Paths.of(answers, [LAYERS_AT]) if answers else None


def _numbers(
    read: Paths | None, name: str, series: Series, base: str | None = None
) -> dict[str, float]:
    """Return a value at `LAYERS_AT` and its interval, over a base's questions or over bases."""
    value = low = high = np.nan
    if read is not None and str(series) in read.methods:
        m = read.methods.index(str(series))
        if base is None:
            value, low, high, *_ = read.utility(str(series), LAYERS_AT)
        elif base in read.bases:
            b = read.bases.index(base)
            measured, resampled = read.measured[m, b, :, 0], read.resampled[m, b, :, 0]
            if not np.isnan(measured).all():
                value = float(np.nanmean(measured))
                seeds = ~np.isnan(measured)
                low, high = np.nanpercentile(resampled[seeds].mean(axis=0), [2.5, 97.5])
    if name == "utility":
        low, high = np.clip([low, high], 0, 1)
    names = [column for column in NUMBERS if column.startswith(f"{name}_at")]
    return dict(zip(names, (value, float(low), float(high)), strict=True))


def _original(paths: pd.DataFrame, objective: str, bases: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the untouched model's rows: one a base, and one over several bases."""
    names = {column: column_of(name) for name, column in READ.items()}
    starts = paths[paths["step"].eq(0)]
    numbers = starts[list(names)].astype(float).set_index(starts["base"].astype(str))
    values = numbers.groupby(level=0).mean().rename(columns=names).reindex(bases)
    about = {"objective": objective, "rule": ORIGINAL}
    for base in bases:
        yield {**about, "base": base, **values.loc[base], "reached": 1, "bases": 1}
    if len(bases) > 1:
        number = len(bases)
        yield {**about, "base": ALL, **values.mean(), "reached": number, "bases": number}


def _chosen_by(
    table: pd.DataFrame, trials: pd.DataFrame, paths: pd.DataFrame, own: Collection[Any]
) -> list[str | None]:
    """Return for each row what chose its layer by its rule, such as `affinity pilot`.

    Args:
        table: See `layer_table`.
        trials: As there.
        paths: As there.
        own: Series and bases whose numbers come from the method's own run.
    """
    layers_by_rule: dict[tuple[str, str], list[int]] = {}
    ranked = paths[paths["selection"].isin(["affinity", "contrast"])].dropna(subset=["experts"])
    by_rule: Any = ranked.groupby([ranked["base"].astype(str), "selection"])
    for (base, rule), rows in by_rule:
        layers_by_rule[base, rule] = [layer for layer, _ in pairs_of(rows["experts"].iloc[0])]
    names = ["objective", "rule", "base", "layer"]
    by_trial = trials[trials["chosen"].eq(True)].astype({"base": str})
    piloted = set(by_trial[names].itertuples(index=False, name=None))
    chosen = []
    for row in table.to_dict("records"):
        by = [row["rule"]] * (row["layer"] in layers_by_rule.get((row["base"], row["rule"]), []))
        by += [PILOT] * (tuple(row[name] for name in names) in piloted)
        by += [OWN_RUN] * (((row["objective"], row["rule"], row["layer"]), row["base"]) in own)
        chosen.append(" ".join(by) or None)
    return chosen


def column_of(name: str) -> str:
    """Return the column of a number of `READ`."""
    return f"{name}_at_{100 * LAYERS_AT:g}"
