"""One page that opens anywhere."""

from html.parser import HTMLParser

import pytest
from plotly.offline import get_plotlyjs

from seuf.reporting.figures import efficacy_utility, overlap_over_steps, tokens_per_expert
from seuf.reporting.report import report
from tests.reporting.examples import SELECTED, comparison, log, routing

EVIL = "<script>alert(1)</script>_&"


def page(table=None, selected=SELECTED):
    """Return the report of a study whose logs hold one look."""
    table = comparison() if table is None else table
    looks = log((0.1, 5, 0.5, 0.9, 0.9))
    shares = routing([0.1, 0.2, 0.3, 0.4])
    figures = {
        "efficacy_utility": efficacy_utility(table),
        "tokens_per_expert": tokens_per_expert(shares, shares, selected),
        "overlap_over_steps": overlap_over_steps(table, dict.fromkeys(table["method"], looks)),
    }
    return report(table, figures, selected)


class Reader(HTMLParser):
    """Collects what a page would load, and the tags it opens."""

    def __init__(self, text):
        super().__init__()
        self.loaded, self.tags = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loaded += [value for name, value in attrs if name in ("src", "href", "srcset", "data")]


@pytest.fixture(scope="module")
def written():
    return page()


def test_the_page_loads_nothing(written):
    own = written.replace(get_plotlyjs(), "")

    assert Reader(written).loaded == []
    assert "http://" not in own
    assert "https://" not in own.replace("https://plot.ly", "")  # Plotly's default, never opened
    assert "@import" not in own
    assert "url(" not in own


def test_plotly_is_inlined_once(written):
    assert written.count(get_plotlyjs()) == 1


def test_the_same_study_gives_the_same_bytes(written):
    assert page() == written


def test_each_figure_and_each_method_is_on_the_page(written):
    for name in ("efficacy_utility", "tokens_per_expert", "overlap_over_steps"):
        assert written.count(f'<div id="{name}"') == 1
    for method in ("original", "full_ga", "seuf_rmu"):
        assert f"</i> {method}</td>" in written


def test_the_best_method_is_marked_in_the_table(written):
    best = written.split('<tr class="best">')[1].split("</tr>")[0]

    assert "seuf_rmu" in best
    assert "<td>0.500<small> ± 0.030</small></td>" in best


def test_the_selected_experts_are_listed_with_how_clear_the_choice_was(written):
    affinity = ["affinity", "1", "3", "0.2500", "0.1250", "layer 0, expert 2", "50%"]
    by_hand = ["by_hand", "1", "3", "-", "-", "-", "-"]

    for cells in (affinity, by_hand):
        assert "".join(f"<td>{cell}</td>" for cell in cells) in written


def test_a_rule_of_many_experts_is_one_line(written):
    """93 experts, from layers 0 to 23 and again from the first."""
    experts = [[place % 24, place // 24] for place in range(93)]
    many = {**SELECTED["by_hand"], "experts": experts, "scores": [0.5] * 93}

    line = "".join(
        f"<td>{cell}</td>" for cell in ("esft", "-", "93 experts in 24 layers", "-", "-", "-", "-")
    )
    assert line in page(selected={**SELECTED, "esft": many})
    assert "<td>esft</td>" not in written


def test_a_name_cannot_bring_markup_into_the_page(written):
    table = comparison().replace({"method": {"seuf_rmu": EVIL}})
    selected = {EVIL: SELECTED["affinity"]}

    evil = page(table, selected)

    assert EVIL not in evil
    assert "&lt;script&gt;alert(1)&lt;/script&gt;_&amp;" in evil
    assert Reader(evil).tags.count("script") == Reader(written).tags.count("script")


def test_rouge_is_explained_only_where_it_was_measured(written):
    generated = page(comparison(full_ga={"rouge_forget": 0.1}))

    assert "<dt>ROUGE-L</dt>" not in written
    assert "<dt>ROUGE-L</dt>" in generated


def test_a_study_that_changed_nothing_still_has_a_report():
    assert "No method changed the model" in page(comparison().assign(changed_tensors=0))
