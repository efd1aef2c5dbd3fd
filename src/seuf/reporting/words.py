"""What the numbers are called, in tables, figures and sentences."""

from __future__ import annotations

import pandas as pd

MEASURES = {
    "accuracy": "accuracy",
    "rouge_l_recall": "ROUGE-L",
    "rouge_l_recall_pltrdy": "ROUGE-L",
    "rouge_l_f1": "ROUGE-L F1",
}
ARROWS = {"forget": "↓", "retain": "↑"}
NAMES = {
    "truth_ratio_forget": "truth ratio forget ↑",
    "forget_quality": "forget quality ↑",
    "model_utility": "model utility ↑",
    "auc_min_k": "membership AUC",
    "auc_min_k_retain": "membership AUC beside retain",
    "privleak": "PrivLeak %",
    "macro_forget": "forget accuracy by topic ↓",
    "macro_retain": "retain accuracy by topic ↑",
}


def headers(comparison: pd.DataFrame) -> tuple[str, str]:
    """Return what a study's forget efficacy and utility are called."""
    return f"forget {measure(comparison, 'forget')} ↓", f"retain {measure(comparison, 'utility')} ↑"


def measure(comparison: pd.DataFrame, what: str) -> str:
    """Return what `forget` or `utility` is measured by."""
    return MEASURES[str(comparison[f"{what}_measure"].iloc[0])]


def header(name: str) -> str:
    """Return what a further measure is called: `rouge_forget_fill_blank`, for example."""
    if name in NAMES:
        return NAMES[name]
    first, _, rest = name.partition("_")
    if first != "rouge":
        return name.replace("_", " ")
    subject, _, kind = rest.partition("_")
    what = f"ROUGE-L {subject}" + (f", {kind.replace('_', ' ')}" if kind else "")
    return f"{what} {ARROWS[subject]}"
