"""What is done to the raw tables."""

import pandas as pd


def preprocess_companies(companies: pd.DataFrame) -> pd.DataFrame:
    """Return the companies with their rating as a number."""
    rating = companies["rating"].str.rstrip("%").astype(float) / 100
    return companies.assign(rating=rating)


def create_model_input_table(
    shuttles: pd.DataFrame, companies: pd.DataFrame, least_rating: float
) -> pd.DataFrame:
    """Return the shuttles of the companies that are rated well enough."""
    table = shuttles.merge(companies, left_on="company_id", right_on="id")
    return table[table["rating"] >= least_rating]
