"""The comparison as people read it."""

from seuf.reporting.comparison import markdown
from tests.reporting.examples import comparison


def test_markdown_lines_up_and_says_what_is_measured():
    expected = """\
| method   | forget accuracy ↓ | retain accuracy ↑ | balance ↑ | overlap forget | overlap retain | weights trained | seconds |
| :------- | ----------------: | ----------------: | --------: | -------------: | -------------: | --------------: | ------: |
| original |     1.000 ± 0.030 |     1.000 ± 0.040 |     0.250 |          0.500 |          0.750 |           0.00% |    12.3 |
| full_ga  |     0.250 ± 0.030 |     0.500 ± 0.040 |     0.500 |          0.500 |          0.750 |         100.00% |    12.3 |
| seuf_rmu |     0.500 ± 0.030 |     1.000 ± 0.040 |     0.750 |          0.500 |          0.750 |           6.25% |    12.3 |
"""  # noqa: E501 - a table's row is one line

    assert markdown(comparison()) == expected


def test_generated_answers_have_columns_of_their_own():
    rouge = {"rouge_forget": 0.125, "rouge_forget_stderr": 0.01, "rouge_retain": 0.5}

    header, _, original, full_ga, _ = markdown(comparison(full_ga=rouge)).splitlines()

    assert header.endswith("| seconds | ROUGE-L forget ↓ | ROUGE-L retain ↑ |")
    assert full_ga.endswith("|    12.3 |    0.125 ± 0.010 |            0.500 |")
    assert original.endswith("|    12.3 |                - |                - |")


def test_an_unknown_error_is_not_shown():
    unknown = {"forget_efficacy_stderr": float("nan")}

    assert "|             0.250 |" in markdown(comparison(full_ga=unknown))


def test_a_pipe_in_a_name_does_not_end_its_cell():
    table = comparison().replace({"method": {"full_ga": "full|ga"}})

    assert "| full\\|ga |" in markdown(table)
