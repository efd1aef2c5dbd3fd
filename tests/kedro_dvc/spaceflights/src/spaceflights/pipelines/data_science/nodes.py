"""A line through prices."""

from typing import Any

import pandas as pd


def fit_prices(table: pd.DataFrame, options: dict[str, Any]) -> dict[str, float]:
    """Return the slope of the price over a feature, and what part of the variance it explains."""
    from spaceflights.columns import PRICE

    feature, price = table[options["feature"]], table[PRICE]
    slope = feature.cov(price) / feature.var()
    digits = options["digits"]
    return {"slope": round(slope, digits), "r2": round(feature.corr(price) ** 2, digits)}
