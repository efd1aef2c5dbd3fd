"""One page that opens anywhere."""

import json
import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from plotly.offline import get_plotlyjs

from seuf.forgetting import pack_right
from seuf.reporting.expert_figures import attribution, tokens_per_expert, trials_by_layer
from seuf.reporting.figures import GENERAL_LOSS, forgetting_paths, overlap_over_steps
from seuf.reporting.layer_figure import layers_figure
from seuf.reporting.layers import layer_table
from seuf.reporting.report import FIGURES, About, known_too_little, report, spread_report
from tests.reporting import test_layers
from tests.reporting.examples import CHANCE, LOOKS, SELECTED, comparison, log, paths, routing

ERROR = "0.1250<small> ± 0.0625</small>"
EVIL = "<script>alert(1)</script>_&"
ABOUT = About("mine", "org/model", "7", "0123456789abcdef", "2026-11-30")
EXAMPLES = [
    {
        "method": "seuf_rmu",
        "subject": subject,
        "question": f"{subject} question?",
        "reference": "the answer",
        "before": "the answer.",
        "after": "",
    }
    for subject in ("forget", "unseen")
] * 5
STUDY = paths(full_ga=LOOKS, seuf_rmu=LOOKS)


def figures(seen=STUDY, selected=SELECTED):
    """Return all figures of a study."""
    shares = routing([0.1, 0.2, 0.3, 0.4])
    trials = {"pilot_ga": log(*LOOKS).assign(layer=0, expert=1)}
    return {
        "forgetting_paths": forgetting_paths(seen),
        "general_loss": forgetting_paths(seen, GENERAL_LOSS),
        "attribution": attribution(shares, shares, selected),
        "layers": layers_figure(layer_table(test_layers.trials(LOOKS), test_layers.STUDY)),
        "trials_by_layer": trials_by_layer(trials, {}),
        "tokens_per_expert": tokens_per_expert(shares, shares, selected),
        "overlap_over_steps": overlap_over_steps(seen),
    }


def page(table=None, seen=STUDY, selected=SELECTED, examples=EXAMPLES):
    """Return the report of a study."""
    table = comparison() if table is None else table
    return report(ABOUT, seen, table, figures(seen, selected), selected, examples)


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
    assert "https://" not in own
    assert "@import" not in own
    assert "url(" not in own


def test_plotly_is_inlined_once(written):
    assert written.count(get_plotlyjs()) == 1


def test_the_same_study_gives_the_same_bytes(written):
    assert page() == written


def test_the_page_says_what_it_is_of(written):
    line = "study mine · org/model · seed 7 · commit 0123456789abcdef · 2026-11-30"

    assert f'<p class="about">{line}</p>' in written
    assert "no commit" in report(ABOUT._replace(commit=None), STUDY, comparison(), {}, {})


def test_each_figure_and_each_method_is_on_the_page(written):
    for name in FIGURES:
        assert written.count(f'id="{name}"') == 1
        assert f'<div class="panel" id="{name}-1"' in written
    for method in ("original", "full_ga", "seuf_rmu"):
        assert f"</i> {method}</td>" in written


def test_every_panel_is_a_figure_that_plotly_can_draw(written):
    texts = re.findall(r'<script type="application/json">(.*?)</script>', written)

    panels = [json.loads(text) for text in texts]
    assert len(panels) == 2 + 2 + 2 + 2 + 1 + 1 + 4
    assert all(panel["data"] and panel["layout"]["autosize"] for panel in panels)


def test_a_figure_without_data_has_no_section():
    unmeasured = STUDY.assign(general_loss=None)

    assert 'id="general_loss"' not in page(seen=unmeasured)


def test_the_table_has_the_cells_that_the_terminal_shows(written):
    assert "<td>0.50<small> ± 0.03</small></td>" in written
    assert "UT@.75: utility where a method" in written


def test_the_selected_experts_are_listed_with_how_clear_the_choice_was(written):
    affinity = ["affinity ⚠", "1", "3", "0.2500", ERROR, "0:2", "50% of halves"]
    by_hand = ["by_hand", "1", "3", "-", "-", "-", "-"]

    for cells in (affinity, by_hand):
        assert "".join(f"<td>{cell}</td>" for cell in cells) in written


def test_a_doubtful_choice_cannot_be_overlooked(written):
    sure = {"by_hand": SELECTED["by_hand"]}

    assert '<div class="warning" role="note"><ul><li>affinity: a near-tie</li>' in written
    assert 'class="warning"' not in page(selected=sure)


def test_a_rule_of_many_experts_is_one_line(written):
    """93 experts, from layers 0 to 23 and again from the first."""
    experts = [[place % 24, place // 24] for place in range(93)]
    many = {**SELECTED["by_hand"], "experts": experts, "scores": [0.5] * 93}

    line = "".join(
        f"<td>{cell}</td>" for cell in ("esft", "-", "93 experts in 24 layers", "-", "-", "-", "-")
    )
    assert line in page(selected={**SELECTED, "esft": many})
    assert "<td>esft</td>" not in written


def test_answers_before_and_after_are_shown_eight_a_method(written):
    assert written.count('<div class="example">') == 8
    assert "<summary>seuf_rmu <small>8 examples</small></summary>" in written
    assert "<dt>after</dt><dd>-</dd>" in written
    assert "before and after" not in page(examples=())


def test_a_name_cannot_bring_markup_into_the_page(written):
    table = comparison().replace({"method": {"seuf_rmu": EVIL}})
    seen = STUDY.replace({"method": {"seuf_rmu": EVIL}, "selection": {"affinity": EVIL}})
    examples = [dict.fromkeys(EXAMPLES[0], EVIL)] * 10

    evil = page(table, seen, {EVIL: SELECTED["affinity"]}, examples)

    assert EVIL not in evil
    assert "&lt;script&gt;alert(1)&lt;/script&gt;_&amp;" in evil
    assert Reader(evil).tags.count("script") == Reader(written).tags.count("script")


def test_what_is_measured_beside_has_a_table_of_its_own(written):
    assert "<th>overlap retain</th>" in written
    assert "ROUGE-L" not in written.replace(get_plotlyjs(), "")
    assert "<th>ROUGE-L forget&nbsp;↓</th>" in page(comparison(full_ga={"rouge_forget": 0.1}))


def test_no_table_of_what_is_measured_beside_is_wider_than_paper():
    """Eleven columns: eight in the first table, three in the second."""
    many = {f"measure_{number}": 0.5 for number in range(8)}

    written = page(comparison(full_ga=many)).split("<h2>Measured beside</h2>")[1]

    first, second = written.split("</section>")[0].split("</thead>")[:2]
    assert (first.count("<th>"), second.count("<th>")) == (1 + 8, 1 + 3)


def test_a_study_of_spread_has_a_page_with_its_tables():
    runs = pd.concat([paths("a", full_ga=LOOKS), paths("b", full_ga=LOOKS)])
    table = (["method", "UT@.75"], [["full_ga", "0.40 ± 0.01"]], ["Over two bases."])

    written = spread_report(
        ABOUT,
        runs,
        {"forgetting_paths": forgetting_paths(runs)},
        {"The methods": table},
        limits=["Made-up bases."],
    )

    assert "<h2>The methods</h2>" in written
    assert "<td>full_ga</td><td>0.40<small> ± 0.01</small></td>" in written
    assert '<p class="notes">Over two bases.</p>' in written
    assert "<li>Made-up bases.</li>" in written
    assert written.count('class="panel"') == 1


def original(forget: float, utility: float, questions: int) -> pd.DataFrame:
    """Return the path of a method whose original scores so on so many test questions of a side."""
    packed = pack_right([1] * questions)
    columns = {f"test_{side}_right": packed for side in ("forget", "utility")}
    return paths(full_ga=((forget, utility), (CHANCE, 0.0))).assign(**columns)


def test_an_original_at_chance_is_told_on_either_side():
    """Two standard errors of a share of 1/4 of 100 questions: 2 sqrt(.25 * .75 / 100) = .087."""
    assert known_too_little(original(0.34, 0.9, 100)) == []
    (told,) = known_too_little(original(0.33, 0.9, 100))
    assert told == (
        "The original model does not know what is to be forgotten: it scores 0.330, guessing gives "
        "0.250. No number of this page shows forgetting."
    )
    (told,) = known_too_little(original(0.9, 0.2, 100))
    assert told.startswith("The original model does not know what must stay: it scores 0.200")
    assert told in page(seen=original(0.9, 0.2, 100))
    assert known_too_little(STUDY.iloc[:0]) == []


def test_what_the_preflight_told_stands_first_and_what_is_used_is_a_table():
    """A study that goes on though the model does not know: that is said before any number."""
    row = {"subject": "forget", "part": "test", "questions": 20, "value": 0.25, "chance": 0.25}
    facts = {
        "sets": {
            "forget": {"texts": 1200, "tokens": 9000, "samples": 90, "cut": 90},
            "general": {"texts": 0, "tokens": 0, "cut": 0},
        },
        "asked": [row | {"measure": "accuracy"}],
        "warnings": ["The model does not know what is to be forgotten."],
    }

    written = report(ABOUT, STUDY, comparison(), {}, SELECTED, preflight=facts)

    first, _, rest = written.partition('<p class="lead">')
    assert "<li>The model does not know what is to be forgotten.</li>" in first
    assert rest
    used = rest.partition("<h2>What was used</h2>")[2].partition("</section>")[0]
    cells = re.findall("<td>(.*?)</td>", used)
    assert cells[:5] == ["forget", "1,200", "9,000", "90", "90 tokens cut (1.0%)"]
    assert cells[5:] == ["forget", "test", "20", "accuracy of choices", "0.250", "0.250"]


def test_too_few_questions_are_told():
    """A share of 16 may be off by 1/4, two standard errors at a half."""
    forget, utility = known_too_little(original(0.9, 0.9, 16))

    assert forget == (
        "Only 16 test questions ask for what is to be forgotten: a share of them may be off by "
        "0.25."
    )
    assert utility.startswith("Only 16 test questions ask for what must stay")
