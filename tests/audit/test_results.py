"""The choice of an expert, worked out again for the method that is audited."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from seuf.audit import PASS
from seuf.audit.results import check_method
from seuf.unlearning.settings import Method

HEAD = "layer,expert,affinity,affinity_even,affinity_odd,token_share"
FORGET = "0,0,.6,.6,.6,.6", "0,1,.4,.4,.4,.4"
RETAIN = "0,0,.5,.9,.1,.5", "0,1,.5,.1,.9,.5"


@pytest.mark.parametrize(("rule", "doubted"), [("affinity", False), ("contrast", True)])
def test_only_what_speaks_against_the_audited_rule_is_said(tmp_path, caplog, rule, doubted):
    """By affinity .6 beats .4 in both halves; by contrast -.3 loses to .3 in one of them, and .5
    beats -.5 in the other. What is said of one rule is no concern of a method of the other.
    """
    for name, rows in (("routing_forget", FORGET), ("routing_retain", RETAIN)):
        (tmp_path / name).write_text("\n".join((HEAD, *rows)) + "\n")
    settings = {"scope": "experts", "selection": rule, "objective": "ga"}
    selection = {"rules": ["affinity", "contrast"]}
    audited = SimpleNamespace(
        method="m",
        settings=settings,
        project=tmp_path,
        path=str,
        read=lambda _: {rule: {"experts": [[0, 0]]}},
        study=SimpleNamespace(
            config={"parameters": {"seed": 0, "base_seed": 0, "expert_selection": selection}}
        ),
    )
    about = {"method": Method.model_validate(settings).model_dump(), "seed": 0}
    audited.delta = SimpleNamespace(about={**about, "experts": [[0, 0]]})

    with caplog.at_level(logging.WARNING):
        checks = list(check_method(audited))

    assert [check.result for check in checks] == [PASS, PASS]
    assert bool(caplog.messages) == doubted
    assert all(message.startswith(f"Rule {rule}: ") for message in caplog.messages)
