"""One page that opens anywhere, and the study in a few sentences on it."""

from html.parser import HTMLParser

import pytest
from plotly.offline import get_plotlyjs

from seuf.reporting.figures import efficacy_utility, overlap_over_steps, tokens_per_expert
from seuf.reporting.report import headline, report, summary
from tests.reporting.examples import SELECTED, comparison, log, numbers, routing

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
    affinity = ["affinity", "1", "3", "0.2500", "0.1250", "layer 0, expert 2", "50% of halves"]
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


def test_the_summary_tells_what_the_best_method_reached():
    """Balances 0.75 and 0.5 are 0.25 apart; two errors are 2 sqrt(2 (.03^2 + .04^2)) = 0.14."""
    assert summary(comparison()) == (
        "seuf_rmu has the best balance of 2 methods: it answers 50.0% of the forget questions "
        "(100.0% before, 25% by guessing) and 100.0% of the retain questions (100.0% before). "
        "No other method is within two standard errors of it."
    )


def test_methods_within_two_standard_errors_are_named():
    """Balances 0.75 and 0.65 are 0.1 apart, less than 0.14."""
    close = comparison(full_ga={"balance": 0.65})

    assert summary(close).endswith("Within two standard errors of it is full_ga.")


def test_a_model_that_was_not_unlearned_is_no_rival():
    """Of `retrained` there is no training: two of the three rows were trained, one is a rival."""
    nan = float("nan")
    other = {"trained_share": nan, "changed_share": nan, "changed_tensors": nan, "seconds": nan}

    told = summary(comparison(full_ga={"balance": 0.75}, retrained=numbers(0.5, 1.0, 0.0) | other))

    assert told.startswith("full_ga has the best balance of 2 methods: ")
    assert told.endswith("Within two standard errors of it is seuf_rmu.")


def test_a_balance_that_was_not_measured_is_no_rival():
    unknown = comparison(full_ga={"balance": float("nan")})

    assert summary(unknown).startswith("seuf_rmu has the best balance of 1 method: ")
    assert summary(unknown).endswith("No other method is within two standard errors of it.")


def test_without_errors_nothing_is_said_of_others():
    unknown = comparison().assign(forget_efficacy_stderr=float("nan"))

    assert summary(unknown).endswith("(100.0% before).")


def test_a_study_in_which_no_balance_rose_says_so():
    good = comparison(original={"balance": 0.9})

    assert summary(good).endswith("No method has a better balance than the original model.")


def test_a_study_that_changed_nothing_says_so_and_has_no_headline():
    unchanged = comparison().assign(changed_tensors=0)

    assert summary(unchanged).startswith("No method changed the model")
    assert headline(unchanged) == []


def test_the_headline_shows_before_and_after():
    assert headline(comparison()) == [
        ("1.000 → 0.500", "accuracy on forget questions"),
        ("1.000 → 1.000", "accuracy on retain questions"),
        ("6.25%", "of the weights were trained"),
        ("75.0%", "of retain routing as before"),
    ]


def test_without_an_original_only_the_result_is_told():
    alone = comparison().iloc[1:]

    assert "it answers 50.0% of the forget questions and 100.0% of" in summary(alone)
    assert headline(alone)[0] == ("0.500", "accuracy on forget questions")
