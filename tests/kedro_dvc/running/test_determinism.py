"""On a GPU sums are made in one order where a method is trained."""

import logging

import pytest
import torch
from kedro.pipeline import Node

from kedro_dvc.safety import SWITCH, Determinism

pytestmark = pytest.mark.filterwarnings("ignore:One or more dataset names")


@pytest.fixture(autouse=True)
def _as_before():
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True


@pytest.fixture
def on_gpu(monkeypatch):
    """Let torch say that there is one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def begin(output: str) -> bool:
    """Let a node begin; return whether sums are then made in one order."""
    Determinism().before_node_run(Node(lambda: 1, None, output, name="n"))
    return torch.are_deterministic_algorithms_enabled()


def test_they_are_where_a_delta_is_made_and_no_longer_in_the_next_stage(on_gpu):
    assert begin("seuf_ga.delta")
    assert not torch.is_deterministic_algorithms_warn_only_enabled()  # attention needs that
    assert not begin("seuf_ga.scores")


def test_without_a_gpu_nothing_is_set(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    assert not begin("seuf_ga.delta")


def test_the_switch_lets_them_be_made_in_any_order(on_gpu, monkeypatch):
    monkeypatch.setenv(SWITCH, "0")

    assert not begin("seuf_ga.delta")


def test_what_has_no_order_names_the_switch(caplog):
    torch.use_deterministic_algorithms(True)
    with pytest.raises(RuntimeError) as raised:
        torch.zeros(2).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))

    with caplog.at_level(logging.ERROR):
        Determinism().on_node_error(raised.value)

    assert f"{SWITCH}=0" in caplog.text


def test_other_errors_do_not(caplog):
    with caplog.at_level(logging.ERROR):
        Determinism().on_node_error(RuntimeError("CUDA out of memory"))

    assert caplog.text == ""
