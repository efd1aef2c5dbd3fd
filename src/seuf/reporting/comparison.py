"""Compare methods at equal forgetting: the numbers of each, for tools and for people.

Begin with `paths_of`, the one table of all evaluations, and `compare`, which reads each method's
path at the shares forgotten in `seuf.forgetting.TARGETS`. `kedro show` prints `markdown`; the
report shows the same cells as HTML. All numbers are of the test questions, which choose nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from seuf.forgetting import TARGETS, at_targets

Metrics = dict[str, dict[str, float]]
Row = dict[str, Any]

MISSING = "-"
STDERR = "_stderr"
# The first columns of a study's paths; those of the training logs follow.
ABOUT_RUN = ["base", "seed", "method", "objective", "scope", "selection", "experts", "chosen"]
# Utility is measured on the first of these that a study has; no loss shows what is unseen.
UTILITY_SUBJECTS = ("unseen", "retain")
COLUMNS = [
    *at_targets([], [], []),
    "forget_efficacy",
    "forget_efficacy_stderr",
    "utility",
    "utility_stderr",
    "retain",
    "retain_stderr",
    "chance",
    "general_loss",
    "routing_overlap_forget",
    "routing_overlap_retain",
    "trained_share",
    "changed_share",
    "changed_tensors",
    "seconds",
]
# Columns with the measures of forget efficacy and utility.
MEASURED_BY = {"forget": "forget_measure", "utility": "utility_measure"}
# Columns that say what a method is.
SETTINGS = ["objective", "scope", "selection"]
# The column that groups methods that differ in a random draw alone.
DRAWS_OF = "draws_of"

# The columns that people read, few enough for a terminal: header, and format of the numbers.
READABLE = {
    **{f"utility_at_{t * 100:.0f}": (f"UT@{t:.2f}".replace("@0", "@"), ".2f") for t in TARGETS},
    "area": ("area", ".2f"),
    "forget_efficacy": ("FE ↓", ".2f"),
    "utility": ("UT ↑", ".2f"),
    "retain": ("retain", ".2f"),
    "general_loss": ("loss", ".2f"),
    "trained_share": ("trained", ".2%"),
    "seconds": ("seconds", ".1f"),
}
MEASURES = {
    "accuracy": "accuracy of choices",
    "exact": "exact answers produced",
    "whole": "whole answers produced",
    "rouge_l_recall": "ROUGE-L",
    "rouge_l_recall_any_script": "ROUGE-L",
    "rouge_l_recall_pltrdy": "ROUGE-L",
    "rouge_l_f1": "ROUGE-L F1",
}
ARROWS = {"forget": " ↓", "retain": " ↑", "unseen": " ↑"}
HEADERS = {
    "truth_ratio_forget": "truth ratio forget ↑",
    "forget_quality": "forget quality ↑",
    "model_utility": "model utility ↑",
    "auc_min_k": "membership AUC",
    "auc_min_k_retain": "membership AUC beside retain",
    "privleak": "PrivLeak %",
    "macro_forget": "forget accuracy by topic ↓",
    "macro_retain": "retain accuracy by topic ↑",
    "choices_related_facts": "related facts",
    "choices_real_authors": "real authors ↑",
    "choices_world_facts": "world facts ↑",
    "nll_forget": "NLL forget ↑",
    "nll_retain": "NLL retain ↓",
    "nll_unseen": "NLL unseen ↓",
    "routing_overlap_forget": "overlap forget",
    "routing_overlap_retain": "overlap retain",
    **{f"general_loss_at_{t * 100:.0f}": f"loss@.{t * 100:.0f}" for t in TARGETS},
}


def paths_of(
    logs: Mapping[str, pd.DataFrame],
    scores: Mapping[str, Mapping[str, Any]],
    base: str,
    seed: int,
) -> pd.DataFrame:
    """Return all evaluations of all methods as one table: `ABOUT_RUN`, then the logs' columns.

    Args:
        logs: The training log of each method; an empty one adds nothing.
        scores: The final scores of each method, with its settings and experts.
        base: Name of the base model.
        seed: Seed of everything that follows the base model.
    """
    tables = []
    for method, log in logs.items():
        settings, experts = scores[method]["method"], scores[method]["experts"]
        about = {
            "base": base,
            "seed": seed,
            "method": method,
            **{name: settings.get(name) for name in SETTINGS},
            "experts": " ".join(f"{layer}:{expert}" for layer, expert in experts) or None,
            "chosen": log["learning_rate"].isin(log.loc[_is_kept(log), "learning_rate"]),
        }
        tables.append(log.assign(**about)[[*ABOUT_RUN, *log.columns]])
    filled = [table for table in tables if not table.empty] or tables[:1]
    return pd.concat(filled, ignore_index=True)


def chosen_path(log: pd.DataFrame) -> pd.DataFrame:
    """Return the evaluations of the kept checkpoint's learning rate, in the order of steps."""
    rates = log.loc[_is_kept(log), "learning_rate"]
    path = log[log["learning_rate"].isin(rates)].dropna(subset=["test_forgotten"])
    return path.sort_values("step", kind="stable")


def at_equal_forgetting(path: pd.DataFrame) -> dict[str, float | None]:
    """Return utility and general loss where each target is first reached, and the area.

    Args:
        path: The path of one run, from step 0 on.

    Returns:
        `utility_at_50` and the like, and `area` under utility; None where not reached.
    """
    utility, general_loss = (
        path[column].tolist() if path[column].notna().all() else None
        for column in ("test_utility", "general_loss")
    )
    return at_targets(path["test_forgotten"].tolist(), utility, general_loss)


def compare(
    scores: Mapping[str, Mapping[str, Any]],
    logs: Mapping[str, pd.DataFrame],
    timings: Mapping[str, Mapping[str, float]],
) -> Metrics:
    """Return the measured numbers of each method, in the order of `scores`.

    Args:
        scores: The final scores of each method's kept checkpoint.
        logs: The training log of each method: its path.
        timings: The seconds each method took; a method not trained here has none.

    Returns:
        The numbers of each method, by the names in `COLUMNS` and in the `measures` of its scores.
        Numbers not measured and targets not reached are left out.
    """
    chance, first_loss, metrics = study_chance(logs), _original_loss(logs), {}
    for method, scored in scores.items():
        log, overlap = logs.get(method), scored.get("routing_overlap", {})
        path = pd.DataFrame() if log is None else chosen_path(log)
        kept = path[_is_kept(path)] if len(path) else path
        original_loss = first_loss if scored.get("changed_tensors") == 0 else None
        numbers = {
            **(at_equal_forgetting(path) if scored.get("trained_share") and len(path) else {}),
            **_of_subject("forget_efficacy", scored, "forget"),
            **_of_subject("utility", scored, utility_subject(scored)),
            **_of_subject("retain", scored, "retain"),
            "chance": chance,
            "general_loss": original_loss if kept.empty else kept["general_loss"].iloc[0],
            "routing_overlap_forget": overlap.get("forget"),
            "routing_overlap_retain": overlap.get("retain"),
            "trained_share": scored.get("trained_share"),
            "changed_share": scored.get("changed_share"),
            "changed_tensors": scored.get("changed_tensors"),
            **timings.get(method, {}),
        }
        for name, measured in scored.get("measures", {}).items():
            numbers[name] = measured["value"]
            numbers[f"{name}{STDERR}"] = measured["standard_error"]
        metrics[method] = {
            name: value
            for name, value in numbers.items()
            if isinstance(value, int | float) and not pd.isna(value)  # the harness says 'N/A' too
        }
    return metrics


def utility_subject(scored: Mapping[str, Any]) -> str:
    """Return the subject that utility is measured on: `unseen` where a study has it."""
    return next(subject for subject in UTILITY_SUBJECTS if subject in scored["headline"])


def comparison_table(metrics: Metrics, scores: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """Return the metrics as a table: `method`, `COLUMNS`, further measures, `SETTINGS`.

    Args:
        metrics: By method, see `compare`.
        scores: The final scores of each method, with its settings and the measures of forget
            efficacy and utility; by default accuracy.
    """
    names = dict.fromkeys(name for numbers in metrics.values() for name in numbers)
    columns = COLUMNS + [name for name in names if name not in COLUMNS]
    table = pd.DataFrame.from_dict(metrics, orient="index").reindex(columns=columns)
    first: Mapping[str, Any] = next(iter((scores or {}).values()), {"headline": {"retain": {}}})
    subjects = {"forget": "forget", "utility": utility_subject(first)}
    for what, column in MEASURED_BY.items():  # the same for all methods
        table[column] = first["headline"].get(subjects[what], {}).get("measure", "accuracy")
    for name in SETTINGS:
        values = {m: (scored.get("method") or {}).get(name) for m, scored in (scores or {}).items()}
        table[name] = pd.Series(values, dtype=object).reindex(table.index)
    if draws := random_draws(scores or {}):
        table[DRAWS_OF] = pd.Series(draws)
    return table.rename_axis("method").reset_index()


def study_chance(logs: Mapping[str, pd.DataFrame]) -> float | None:
    """Return the score of guessing on the forget questions; None if no method was trained."""
    for log in logs.values():
        for chance in log["test_chance"].dropna():
            return float(chance)
    return None


def by_method(comparison: pd.DataFrame) -> dict[str, Row]:
    """Return the rows of the comparison by method, in their order."""
    records = comparison.to_dict(orient="records")
    return {str(row["method"]): {str(key): row[key] for key in row} for row in records}


def original_method(comparison: pd.DataFrame) -> str | None:
    """Return the name of the original model: the first method that trained nothing."""
    return next((m for m, row in by_method(comparison).items() if row["trained_share"] == 0), None)


def not_unlearned(comparison: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Return (forget efficacy, utility) of models that no method made, such as one never taught."""
    return {
        method: (float(row["forget_efficacy"]), float(row["utility"]))
        for method, row in by_method(comparison).items()
        if pd.isna(row["trained_share"])
    }


def layers_of(paths: pd.DataFrame) -> dict[str, int]:
    """Return the layer of each method's first expert."""
    experts = paths.dropna(subset=["experts"]).groupby("method", sort=False)["experts"].first()
    return {str(method): pairs_of(named)[0][0] for method, named in experts.items()}


def pairs_of(experts: str) -> list[tuple[int, int]]:
    """Return the (layer, expert) pairs that a table of paths writes as `0:1 2:17`."""
    pairs = (named.split(":") for named in experts.split())
    return [(int(layer), int(expert)) for layer, expert in pairs]


def random_draws(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Map methods that differ in their random expert alone to the first of their group.

    Args:
        scores: The final scores of each method, with its settings as `method`.
    """
    groups: dict[str, list[str]] = {}
    for name, scored in scores.items():
        method = dict(scored.get("method") or {})
        if re.fullmatch(r"random(_\d+)?", str(method.pop("selection", None))):
            groups.setdefault(json.dumps(method, sort_keys=True), []).append(name)
    return {name: names[0] for names in groups.values() if len(names) > 1 for name in names}


def notes(comparison: pd.DataFrame) -> list[str]:
    """Return notes on the readable table: its columns, measures and random draws."""
    forget, utility = (measure(comparison, what) for what in MEASURED_BY)
    measures = f"both {forget}" if forget == utility else f"FE {forget}, UT {utility}"
    shown = _shown(comparison)
    area = " Area: mean utility on the way to .9." if "area" in shown else ""
    kept = ["FE", "UT", *(["retain"] if "retain" in shown else [])]
    kept += ["loss (nats a token of other text)"] if "general_loss" in shown else []
    return [
        "UT@.75: utility where a method's path has first gone .75 of the way from the original's "
        f"FE to that of guessing; {MISSING}: not reached.{area}",
        f"{', '.join(kept[:-1])} and {kept[-1]}: the kept checkpoint; {measures}.",
        *spread_over_draws(comparison),
    ]


def spread_over_draws(comparison: pd.DataFrame) -> list[str]:
    """Return a sentence for each group of random draws, with mean and standard deviation."""
    if DRAWS_OF not in comparison:
        return []
    return [
        f"Over {len(rows)} random experts ({', '.join(rows['method'])}): FE "
        f"{_mean_and_deviation(rows['forget_efficacy'])}, UT "
        f"{_mean_and_deviation(rows['utility'])} (mean ± standard deviation)."
        for _, rows in comparison.groupby(DRAWS_OF, sort=False)
    ]


def measure(comparison: pd.DataFrame, what: str) -> str:
    """Return the measure of `forget` or `utility` in words; an unlisted one keeps its name."""
    name = str(comparison[MEASURED_BY[what]].iloc[0])
    return MEASURES.get(name, name.replace("_", " "))


def header(name: str) -> str:
    """Return the column header of a further measure, such as `rouge_forget_fill_blank`."""
    if name in HEADERS:
        return HEADERS[name]
    first, _, rest = name.partition("_")
    subject, _, kind = rest.partition("_")
    if first == "rouge":
        what = f", {kind.replace('_', ' ')}" if kind else ""
        return f"ROUGE-L {subject}{what}{ARROWS.get(subject, '')}"
    return f"{name.replace('_', ' ')}{ARROWS.get(name.rpartition('_')[2], '')}"


def number(value: float | None, form: str) -> str:
    """Return the formatted number; a dash where there is none."""
    return MISSING if value is None or pd.isna(value) else format(value, form)


def readable(comparison: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Return headers and a row of text for each method, narrow enough for a terminal."""
    return _cells(comparison, _shown(comparison))


def _shown(comparison: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Return the columns of `READABLE` that have a number and repeat no other column."""
    empty = {"retain"} if comparison["retain"].equals(comparison["utility"]) else set()
    empty |= {name for name in READABLE if comparison[name].isna().all()} - {"utility_at_75"}
    return {name: column for name, column in READABLE.items() if name not in empty}


def further(comparison: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Return headers and rows of the measures that are not in the readable table."""
    known = {"method", DRAWS_OF, *READABLE, *MEASURED_BY.values(), *SETTINGS}
    known |= {"chance", "changed_share", "changed_tensors"}
    names = [
        str(name)
        for name in comparison.columns
        if name not in known and not str(name).endswith(STDERR) and comparison[name].notna().any()
    ]
    return _cells(comparison, {name: (header(name), ".3f") for name in names})


def _cells(
    comparison: pd.DataFrame, columns: Mapping[str, tuple[str, str]]
) -> tuple[list[str], list[list[str]]]:
    rows = [
        [method, *(_cell(row, name, form) for name, (_, form) in columns.items())]
        for method, row in by_method(comparison).items()
    ]
    return ["method", *(title for title, _ in columns.values())], rows


def _cell(row: Row, name: str, form: str) -> str:
    error = None if name == "retain" else row.get(f"{name}{STDERR}")
    spread = "" if error is None or pd.isna(error) else f" ± {error:{form}}"
    return number(row[name], form) + spread


def markdown(comparison: pd.DataFrame) -> str:
    """Return the comparison as a GitHub table with aligned source, and its notes."""
    headers, rows = readable(comparison)
    below = [f"\n{sentence}" for sentence in notes(comparison)]
    return "\n".join([*aligned(headers, rows), *below]) + "\n"


def aligned(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a GitHub table, first column left-aligned, the others right-aligned."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in [headers, *rows]]
    first, *others = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = [":" + "-" * (first - 1), *("-" * (width - 1) + ":" for width in others)]
    lines = []
    for row in (cells[0], rule, *cells[1:]):
        padded = [cell.rjust(width) for cell, width in zip(row[1:], others, strict=True)]
        lines.append(f"| {' | '.join([row[0].ljust(first), *padded])} |")
    return lines


def _original_loss(logs: Mapping[str, pd.DataFrame]) -> float | None:
    """Return the original's general loss, which every path begins with."""
    starts = (log.loc[log["step"] == 0, "general_loss"].dropna() for log in logs.values())
    return next((float(start.iloc[0]) for start in starts if len(start)), None)


def _of_subject(name: str, scored: Mapping[str, Any], subject: str) -> dict[str, Any]:
    found = scored["headline"].get(subject)
    if found is None:
        return {}
    return {name: found["value"], f"{name}{STDERR}": found["standard_error"]}


def _is_kept(log: pd.DataFrame) -> pd.Series:
    """Return which rows are the kept checkpoint; missing values count as no."""
    return log["kept"].eq(True)


def _mean_and_deviation(values: pd.Series) -> str:
    return f"{values.mean():.3f} ± {values.std(ddof=1):.3f}"
