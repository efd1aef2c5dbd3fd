"""What the selection stage makes of two routing tables."""

import json

import pandas as pd
import pytest

from seuf.pipelines.expert_selection.nodes import select_experts
from seuf.unlearning.selection import SelectionSettings

# Layers 1 and 2 of three experts; most of the affinity and most of the tokens lie elsewhere.
TABLE = pd.DataFrame(
    {
        "layer": [1, 1, 1, 2, 2, 2],
        "expert": [0, 1, 2, 0, 1, 2],
        "affinity": [0.5, 0.2, 0.1, 0.1, 0.1, 0.3],
        "affinity_even": [0.5, 0.2, 0.1, 0.1, 0.1, 0.3],
        "affinity_odd": [0.5, 0.2, 0.1, 0.1, 0.1, 0.3],
        "token_share": [0.1, 0.2, 0.7, 0.6, 0.3, 0.1],
    }
)


def select(score: str) -> dict:
    """Return what `affinity_2` and `esft` choose."""
    settings = SelectionSettings(rules=["affinity_2", "esft"], esft_threshold=0.3, esft_score=score)
    return select_experts(TABLE, TABLE, settings, base_seed=0, seed=0)


@pytest.mark.parametrize(
    ("score", "experts"), [("token", [(1, 2), (2, 0)]), ("gate", [(1, 0), (2, 2)])]
)
def test_esft_reads_the_column_of_its_score(score, experts):
    assert select(score)["esft"]["experts"] == experts


def test_the_order_of_a_tables_rows_does_not_matter():
    settings = SelectionSettings(rules=["affinity", "esft"])

    mixed = TABLE.sample(frac=1, random_state=1)

    assert select_experts(mixed, mixed, settings, 0, 0) == select_experts(
        TABLE, TABLE, settings, 0, 0
    )


def test_a_random_expert_is_drawn_anew_for_each_base_and_each_seed():
    """Six experts, sixteen pairs of seeds: with the seed alone the four bases would agree."""
    settings = SelectionSettings(rules=["random"])

    drawn = [
        [
            select_experts(TABLE, TABLE, settings, base, seed)["random"]["experts"]
            for base in range(4)
        ]
        for seed in range(4)
    ]

    assert all(len({str(choice) for choice in of_seed}) > 1 for of_seed in drawn)
    assert select_experts(TABLE, TABLE, settings, 2, 1)["random"]["experts"] == drawn[1][2]


def test_a_rule_reads_its_own_column():
    """Shares .4 and .6 of layer 1, .9 and .1 of layer 2."""
    table = TABLE.assign(reap=[2.0, 0.0, 3.0, 9.0, 1.0, 0.0])

    chosen = select_experts(table, table, SelectionSettings(rules=["reap"]), 0, 0)["reap"]

    assert (chosen["experts"], chosen["scores"]) == ([(2, 0)], [0.9])


def test_every_choice_is_told_in_the_same_words():
    chosen = json.loads(json.dumps(select("token")))

    assert chosen["affinity_2"]["experts"] == [[2, 2]]
    assert chosen["affinity_2"].keys() == chosen["esft"].keys()
    assert (chosen["esft"]["margin"], chosen["esft"]["runner_up"]) == (None, None)
