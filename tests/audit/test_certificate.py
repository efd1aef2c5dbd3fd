"""What the certificate says, what it never says, and that data cannot become markup."""

import copy
import json
import time
import tomllib
from pathlib import Path

import pytest

from seuf.audit.certificate import NO_CERTIFICATE, TITLE, UNKNOWN, certificate, selection
from seuf.unlearning import rankings

SCORES = {
    "forget": {
        "measure": "accuracy",
        "before": 0.95,
        "before_error": 0.05,
        "after": 0.33,
        "after_error": 0.08,
        "questions": 36,
    },
    "retain": {
        "measure": "accuracy",
        "before": 0.9,
        "before_error": 0.02,
        "after": 0.85,
        "after_error": 0.025,
        "questions": 144,
    },
    "chance": 0.25,
    "routing_overlap": {"forget": 0.46, "retain": 0.55},
}
RUN = {
    "stage": "unlearn@seuf_ga",
    "started": "2026-11-24T10:00:00+02:00",
    "seconds": 4.25,
    "commit": "c" * 40,
    "clean": True,
    "outputs": {"data/06_models/seuf_ga/delta.safetensors": "1" * 64},
    "environment": {
        "python": "3.12.3",
        "platform": "Linux",
        "processor": "x86_64",
        "cores": 2,
        "packages": {"torch": "2.13.0"},
        "torch": {"threads": 2, "deterministic": False, "cuda": None},
    },
}
REPORT = {
    "study": "tofu",
    "method": "seuf_ga",
    "verdict": "PASS",
    "audited": "2026-11-25T23:59:00+00:00",
    "commit": "c" * 40,
    "clean": True,
    "checks": [
        {"name": "bytes", "result": "PASS", "text": "9 files are what the lock says."},
        {"name": "forget set", "result": "NOTE", "text": "no longer there, known by its hash."},
    ],
    "delta": {
        "path": "data/06_models/seuf_ga/delta.safetensors",
        "sha256": "1" * 64,
        "md5": "2" * 32,
        "size": 100,
        "base": "3" * 64,
    },
    "base": {"name": "base_model", "digest": "3" * 64},
    "materials": [
        {
            "path": "data/05_model_input/forget.json",
            "sha256": "4" * 64,
            "md5": "5" * 32,
            "size": 10,
            "role": "data",
            "confidential": True,
            "here": False,
        },
        {
            "path": "data/05_model_input/retain.json",
            "sha256": "6" * 64,
            "md5": "7" * 32,
            "size": 10,
            "role": "data",
            "confidential": False,
            "here": True,
        },
        {
            "path": "data/01_raw/base_model",
            "sha256": None,
            "md5": "8" * 32,
            "size": 10,
            "role": "model",
            "confidential": False,
            "here": True,
        },
        {
            "path": "src/seuf/moe/layers.py",
            "sha256": "a" * 64,
            "md5": "b" * 32,
            "size": 10,
            "role": "code",
            "confidential": False,
            "here": True,
        },
    ],
    "settings": {
        "scope": "experts",
        "selection": "affinity",
        "objective": "ga",
        "anchor_weight": 1.0,
    },
    "seed": 0,
    "parameters": {},
    "experts": [[1, 3]],
    "repository": "git.example/seuf",
    "evidence": [{"path": "data/07_model_output/seuf_ga/scores.json", "sha256": "5" * 64}],
    "issued": {"by": "The Office", "version": "1.2.3", "key": "0f" * 32},
    "forgetting": {"verdict": "NOT REACHED", "text": "forget at most 0.3 was declared: 0.361"},
    "changes": {
        "model": "d" * 64,
        "tensors": [
            {"key": "layers.1.experts.3.up", "elements": 12000, "largest": 0.25, "relative": 0.1},
            {"key": "layers.1.router", "elements": 300, "largest": 0.5, "relative": 0.2},
        ],
        "changed": 12300,
        "total": 3000000,
        "equal": 57,
    },
    "runs": [RUN],
    "scores": SCORES,
    "request": {
        "id": "R-7",
        "date": "2026-11-20",
        "reason": "asked by the data subject",
        "records": 4,
        "digest": "9" * 64,
        "forget_at_most": 0.3,
    },
}
FAILED = {
    "verdict": "FAIL",
    "checks": [
        {"name": "lock", "result": "PASS", "text": "as dvc.yaml has it."},
        {"name": "delta", "result": "FAIL", "text": "delta.safetensors is not what was made."},
        {"name": "scores", "result": "FAIL", "text": "the answers give another number."},
    ],
}
EVIL = '<script>alert(1)</script> " onload="x [a](javascript:b) `c` *d* |\n# e\n<img src=x>'


def changed(**parts):
    return copy.deepcopy(REPORT) | parts


def page_of(report):
    """Return the page with the spaces that a browser shows."""
    return " ".join(certificate(report).split())


def test_the_certificate_tells_what_was_asked_done_and_changed():
    """12,300 of 3,000,000 parameters are 0.41%."""
    page = page_of(REPORT)

    assert TITLE in page
    assert "asked by the data subject" in page
    assert "layer 1, expert 3" in page
    assert "those that the texts to be forgotten use most (rule affinity)" in page
    assert "12,300 of 3,000,000 (0.41%)" in page
    assert "differ from the base model: 2." in page
    assert "equal it to the last bit: 57." in page
    assert "passed 1 of 2 checks; 1 is a remark" in page


def test_intervals_are_two_standard_errors_wide_on_each_side_and_end_at_one():
    """0.95 - 1.96 * 0.05 = 0.852 and 1.048 is cut to 1; 0.33 -+ 1.96 * 0.08 = 0.1732, 0.4868.

    0.90 -+ 1.96 * 0.02 = 0.8608, 0.9392 and 0.85 -+ 1.96 * 0.025 = 0.801, 0.899.
    """
    page = page_of(REPORT)

    assert "95.0% (85.2% to 100.0%)" in page
    assert "33.0% (17.3% to 48.7%)" in page
    assert "90.0% (86.1% to 93.9%)" in page
    assert "85.0% (80.1% to 89.9%)" in page
    assert "Everything else went from 90.0% to 85.0% (\N{MINUS SIGN}5.0 points)." in page
    assert "46.0% are the same as before on what was to be forgotten, 55.0% on every" in page
    assert "the drop is more than such errors explain" in page
    assert "Guessing would give 25.0%, which lies in the interval after." in page


@pytest.mark.parametrize(
    ("after", "error", "said"),
    [
        (0.6, 0.1, "some of what was to be forgotten is still answered"),
        (0.02, 0.02, "right answers are avoided"),
        (0.8, 0.1, "do not show that anything was forgotten"),
        (0.33, None, "33.0% (no interval)"),
        (0.33, float("nan"), "Without both intervals a change may be chance."),
        (0.0, 0.0, "all answers scored alike, not certainty"),
    ],
)
def test_scores_claim_no_more_than_their_errors_allow(after, error, said):
    """0.6 - 0.196 > 0.25; 0.02 + 0.0392 < 0.25; 0.8 + 0.196 > 0.852."""
    forget = SCORES["forget"] | {"after": after, "after_error": error}

    assert said in page_of(changed(scores=SCORES | {"forget": forget}))


def test_answers_in_own_words_are_numbers_and_have_no_guessing():
    rouge = SCORES["forget"] | {"measure": "rouge_l_recall"}

    page = page_of(changed(scores={"forget": rouge, "retain": rouge, "chance": 0}))

    assert "0.330 (0.173 to 0.487)" in page
    assert "ROUGE-L" in page
    assert "no score to expect from guessing" in page
    assert "(\N{MINUS SIGN}0.620)" in page


@pytest.mark.parametrize("scores", [None, {}, {"retain": SCORES["retain"]}])
def test_what_was_not_tested_stands_there_whatever_the_scores_are(scores):
    page = page_of(changed(scores=scores))

    assert "Attacks that bring knowledge back" in page
    assert "in another language" in page
    assert "one trained again without the data" in page


def test_a_comparison_with_a_model_without_the_data_is_no_longer_missing():
    page = page_of(changed(scores=SCORES | {"forget_quality": {"value": 0.2}}))

    assert "no such model was compared" not in page


def test_a_failed_audit_gives_no_certificate_and_the_first_cause():
    page = page_of(changed(**FAILED))

    assert NO_CERTIFICATE in page
    assert TITLE not in page
    assert "First cause: delta: delta.safetensors is not what was made." in page
    assert page.index("The checks") < page.index("What was asked")


@pytest.mark.parametrize(
    ("verdict", "checks"),
    [
        ("PASS", FAILED["checks"]),
        ("PASS", []),
        ("FAIL", REPORT["checks"]),
        ("pass", REPORT["checks"]),
        ("PASS", [*REPORT["checks"], {"name": "n", "result": "ODD", "text": "t"}]),
    ],
)
def test_only_a_pass_without_any_failed_check_gives_a_certificate(verdict, checks):
    page = page_of(changed(verdict=verdict, checks=checks))

    assert NO_CERTIFICATE in page
    assert "First cause: " in page


def test_an_audit_that_ended_before_the_weights_says_that_they_were_not_compared():
    page = page_of(changed(**FAILED, changes={"tensors": []}))

    assert "The weights were not compared" in page


def test_missing_parts_are_said_to_be_missing():
    page = page_of(
        changed(
            **FAILED,
            scores={},
            runs=[],
            request=None,
            changes=None,
            delta=None,
            materials=[],
            experts=[],
            settings={},
            commit=None,
        )
    )

    assert "No request is attached" in page
    assert "how well it was forgotten is unknown" in page
    assert "The weights were not compared" in page
    assert "No record of the run is attached." in page
    assert "commit not recorded" in page
    assert "--delta DELTA" in page


@pytest.mark.parametrize("key", ["changes", "scores", "runs", "request", "delta", "materials"])
def test_a_report_without_one_of_its_parts_still_renders(key):
    report = changed()
    del report[key]

    assert "What was not tested" in page_of(report)


def test_inputs_that_are_gone_are_named_and_hashes_of_confidential_files_are_not_shown():
    page = page_of(REPORT)

    gone = page.split("Inputs that can no longer be read")[1].split("Where and when")[0]
    assert "forget.json" in gone
    assert "retain.json" not in gone
    assert "4" * 64 not in page
    assert "6" * 64 in page
    assert "MD5 only, which is no proof: " + "8" * 32 in page


def test_it_says_who_can_check_it_and_how():
    page = page_of(REPORT)

    assert "kedro audit seuf_ga --env tofu" in page
    assert (
        "kedro audit verify FILE --delta data/06_models/seuf_ga/delta.safetensors --base BASE "
        "--key PUBLIC_KEY" in page
    )


def test_the_study_of_the_base_configuration_needs_no_environment():
    assert "--env" not in page_of(changed(study="sandbox"))


def test_a_time_without_a_zone_is_shown_as_recorded(monkeypatch):
    """Local time of the reader's machine would make another page of the same report."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()

    page = page_of(changed(runs=[RUN | {"started": "2026-11-24T10:00:00"}]))

    monkeypatch.undo()
    time.tzset()
    assert '<td data-label="started">2026-11-24T10:00:00</td>' in page


def test_a_run_is_told_with_its_machine_in_universal_time():
    """10:00 at +02:00 is 08:00 UTC."""
    gpu = copy.deepcopy(RUN) | {"stage": "on a gpu", "clean": False}
    gpu["environment"]["torch"]["cuda"] = {"device": "A GPU"}

    page = page_of(changed(runs=[RUN, gpu]))

    assert "2026-11-24 08:00 UTC" in page
    assert "CPU: x86_64" in page
    assert "A GPU" in page
    assert "commit cccccccccc with uncommitted changes" in page


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"scope": "everything", "objective": "npo"}, "All weights of the model."),
        (
            {"scope": "everything", "only": "experts", "layers": [5, 6], "objective": "rmu"},
            "Only the experts of the layers 5, 6.",
        ),
        ({"scope": "lora", "objective": "ga"}, "(LoRA)"),
        ({"scope": "experts", "selection": "mine", "objective": "ga"}, "by hand, as mine"),
        ({"scope": "experts", "selection": "random_3", "objective": "ga"}, "by lot (rule random_3"),
        (
            {"scope": "experts", "selection": "layer_affinity_2", "objective": "ga"},
            "order of that use (rule layer_affinity_2; number 2 in that order)",
        ),
        (
            {"scope": "experts", "selection": "random_in:contrast", "objective": "ga"},
            "by lot, in the layers that contrast chooses (rule random_in:contrast)",
        ),
        (
            {"scope": "experts", "selection": "pilot", "objective": "ga"},
            "left most of the other knowledge (rule pilot)",
        ),
        (
            {"scope": "experts", "router": "none", "selection": "a"},
            "the routers stayed as they were",
        ),
        ({"scope": "deletion", "selection": "reap"}, "the outputs of the experts named below"),
        (
            {"scope": "experts", "router_null_space": 0.1, "selection": "a"},
            "only in directions that the texts to keep hardly use",
        ),
        (
            {"scope": "everything", "objective": "wga", "retain_loss": "kl"},
            "(weighted gradient ascent). Instead, its predictions on the texts to keep",
        ),
        (
            {"scope": "everything", "objective": "gdiff", "retain_loss": "nll"},
            "(gradient difference).",
        ),
        ({"scope": "nothing"}, "the base model as it was"),
        # Eq. 3 draws the gates to the selected experts, not to what they were
        ({"scope": "experts", "anchor_weight": 1.0}, "it sending the texts to be forgotten to"),
    ],
)
def test_a_method_is_told_in_plain_words(settings, said):
    assert said in page_of(changed(settings=settings))


def test_of_many_tensors_and_experts_the_first_are_named_and_the_rest_is_counted():
    tensors = [{"key": f"t{n}", "elements": 1, "largest": 1.0, "relative": 1.0} for n in range(20)]

    page = page_of(
        changed(
            changes=REPORT["changes"] | {"tensors": tensors}, experts=[[0, n] for n in range(11)]
        )
    )

    assert "t7" in page
    assert "t8" not in page
    assert "12 more are in the audit's own report." in page.replace("&#39;", "'")
    assert "layer 0, expert 7; and 3 more" in page


def poisoned():
    """Return a report in which all that comes from data is hostile."""
    report = changed(study=EVIL, method=EVIL, commit=EVIL, audited=EVIL)
    report["checks"][0] |= {"name": EVIL, "text": EVIL}
    report["request"] |= dict.fromkeys(report["request"], EVIL)
    report["base"] |= {"name": EVIL, "digest": EVIL}
    report["delta"] |= {"path": EVIL, "sha256": EVIL}
    for material in report["materials"]:
        material |= {"path": EVIL}
    report["changes"]["tensors"][0]["key"] = EVIL
    report["settings"] |= {"selection": EVIL, "objective": EVIL, "scope": EVIL}
    report["experts"] = [[EVIL, EVIL]]
    report["runs"][0] |= {"stage": EVIL, "started": EVIL, "commit": EVIL}
    report["runs"][0]["environment"] |= {"python": EVIL, "processor": EVIL}
    return report


@pytest.mark.parametrize("report", [poisoned(), poisoned() | {"verdict": "FAIL"}])
def test_data_cannot_become_html(report):
    clean, page = certificate(REPORT), certificate(report)

    assert "<script" not in page
    assert "<img" not in page
    assert '" onload' not in page
    assert "&lt;script&gt;" in page
    assert {tag.split(">")[0] for tag in page.split("<")[1:]} <= {
        tag.split(">")[0]
        for tag in [*clean.split("<")[1:], 'body class="failed"', 'p class="cause"']
    }


def test_characters_that_hide_or_turn_text_are_shown_as_unknown():
    page = page_of(changed(request=REPORT["request"] | {"reason": "a\u202eb\x00c\ud800d"}))

    assert "a\ufffdb\ufffdc\ufffdd" in page
    page.encode()


@pytest.mark.parametrize("report", [REPORT, changed(**FAILED)])
def test_the_page_needs_no_network_and_no_script_and_claims_no_certainty(report):
    page = certificate(report)

    assert "http" not in page
    assert "<script" not in page
    assert "url(" not in page
    assert "knowledge is gone" not in page
    assert "certified" not in page


def test_the_same_report_gives_the_same_bytes_whatever_the_order_of_its_keys():
    assert certificate(json.loads(json.dumps(REPORT, sort_keys=True))) == certificate(REPORT)


def test_a_complete_report_leaves_no_gap_in_the_page():
    """A misspelt name in the page would read so too."""
    assert UNKNOWN not in page_of(REPORT)


@pytest.mark.parametrize("chance", [float("nan"), None, 0])
def test_a_guessing_rate_that_is_no_number_is_not_printed(chance):
    page = page_of(changed(scores=SCORES | {"chance": chance}))

    assert "nan" not in page
    assert "There is no score to expect from guessing." in page


def test_no_score_and_no_overlap_is_printed_as_nan():
    nan = float("nan")
    forget = SCORES["forget"] | {"before": nan, "before_error": nan}
    page = page_of(changed(scores=SCORES | {"forget": forget, "routing_overlap": {"forget": nan}}))

    assert "nan" not in page
    assert f"{UNKNOWN} (no interval)" in page


def test_the_page_is_part_of_the_package():
    """Installed from a wheel, it lies beside the module."""
    config = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    patterns = config["tool"]["setuptools"]["package-data"]

    assert "*.html" in patterns.get("seuf.audit", patterns.get("*"))


def test_integrity_and_forgetting_are_two_verdicts():
    """All checks may pass while too little is forgotten: that must not read as success."""
    page = page_of(REPORT)

    assert "Integrity: passed." in page
    assert '<b class="bad">Forgetting: not as declared.</b> Forget at most 0.3 was' in page
    assert "on what is to be forgotten a score of at most 0.3" in page
    assert '<body class="reached">' not in page
    reached = changed(forgetting={"verdict": "REACHED", "text": "x"})
    assert '<body class="reached">' in page_of(reached)
    del (unjudged := changed())["forgetting"]
    assert "Forgetting: not judged." in page_of(unjudged)


def test_it_names_issuer_key_repository_and_version_and_what_it_cannot_show():
    page = page_of(REPORT)

    for told in (
        "The Office",
        f"the statement is signed with the key {'0f' * 32}",
        "git.example/seuf",
        "1.2.3",
        "d" * 64,
        "Whoever can rewrite the repository&#39;s commits can rewrite",
    ):
        assert told in page or told.replace("&#39;", "'") in page
    assert "the statement is not signed" in page_of(changed(issued={"by": None, "key": None}))


def test_the_command_that_repeats_it_has_the_request():
    assert "kedro audit seuf_ga --env tofu --request R-7" in page_of(REPORT)
    assert "--request" not in page_of(changed(request=None))


def test_models_derived_from_the_resulting_one_are_listed_or_said_to_be_unknown():
    one = {"name": "small", "how": "4 bits", "sha256": "e" * 64, "date": "2026-11-26"}

    page = page_of(changed(derived=[one]))

    assert "derived model, 4 bits" in page
    assert "e" * 64 in page
    assert "The ledger knows no model derived" in page_of(REPORT)


def test_a_rule_of_the_studys_own_package_is_no_choice_by_hand(monkeypatch):
    """A row of the registry, as docs/extending.md has it; it was `by hand, as ratio`."""
    monkeypatch.setitem(rankings.SELECTIONS, "ratio", lambda forget, retain: forget / retain)

    assert selection("ratio") == "by a rule of this study's own (rule ratio)"
    assert selection("mine") == "by hand, as mine in the settings"
