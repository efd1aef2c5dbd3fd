"""`kedro request` from opening one to asking what it was about; errors are one line."""

import hashlib
import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from kedro.framework import project as _project  # noqa: F401 - prints a line when it is first imported

from kedro_dvc.hashing import sha256s
from seuf.audit.cli import audit, exit_on_input_error
from seuf.audit.ledger import read_ledger
from seuf.audit.request_cli import request
from seuf.audit.requests import derived_models
from seuf.datasets.checkpoint import CheckpointDataset
from seuf.inputs import InputError
from seuf.moe.deltas import Delta, export
from seuf.moe.digests import model_digest
from seuf.moe.loading import load_model
from seuf.moe.settings import ExternalModelSettings
from tests.tiny import loaded, some_change, tiny_language_model

CATALOG = """
forget_set:
  type: seuf.datasets.records.RecordsDataset
  filepath: ${globals:data_root}/03_primary/forget_set.jsonl
base_model:
  type: seuf.datasets.checkpoint.CheckpointDataset
  filepath: ${globals:data_root}/06_models/base_model
"{method}.delta":
  type: seuf.datasets.checkpoint.DeltaDataset
  filepath: ${globals:data_root}/06_models/{method}/delta.safetensors
"""
TEXTS = ["Ada, 555-0100", "Bo, 555-0199"]


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A project with the studies base and next, and the forget set of base."""
    monkeypatch.chdir(tmp_path)
    for env, root in (("base", "data"), ("next", "next_data")):
        (tmp_path / "conf" / env).mkdir(parents=True)
        (tmp_path / "conf" / env / "globals.yml").write_text(f"data_root: {root}\n")
    (tmp_path / "conf/base/catalog.yml").write_text(CATALOG)
    (tmp_path / "conf/base/parameters.yml").write_text("methods: {seuf_ga: {objective: ga}}\n")
    write_texts(tmp_path / "data/03_primary/forget_set.jsonl", TEXTS)
    return tmp_path


@pytest.fixture
def unlearned(project) -> Path:
    """The same, after base has run."""
    folder = project / "data/06_models/base_model"
    tiny_language_model().save(folder)
    unlearn(folder, project / "data", seed=1)
    return project


def unlearn(base: Path, root: Path, seed: int) -> Delta:
    """Write a method's delta of a base model."""
    model = loaded(base)
    delta = Delta.of(model, some_change(model, seed=seed), model_digest(model))
    (root / "06_models/seuf_ga").mkdir(parents=True, exist_ok=True)
    delta.save(root / "06_models/seuf_ga/delta.safetensors")
    return delta


def write_texts(path: Path, texts: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def say(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(request, [*arguments], catch_exceptions=False)
    return result.exit_code, result.stdout or result.stderr  # bars go to stderr beside the former


def opened(name: str, *arguments: str) -> None:
    assert say("open", name, "--reason", "by mail", *arguments)[0] == 0


def test_a_request_is_opened_with_the_forget_set_of_its_study(project):
    begin = datetime.now(UTC).replace(microsecond=0)

    code, output = say("open", "17", "--reason", "by mail", "--method", "seuf_ga")

    told = json.loads((project / "evidence/requests/17.json").read_text())
    assert (code, output) == (
        0,
        f"opened 17: 2 records, digest {told['digest'][:12]}\n"
        "its salt is .salts/17: keep it apart, and in no commit\n",
    )
    facts = ("reason", "study", "method", "records")
    assert [told[key] for key in facts] == ["by mail", "base", "seuf_ga", 2]
    assert begin <= datetime.fromisoformat(told["date"]) <= datetime.now(UTC)


@pytest.mark.parametrize("command", ["open", "revoke"])
def test_a_reason_that_says_nothing_is_refused(project, command):
    code, output = say(command, "17", "--reason", " ")

    assert code == 2
    assert output.endswith("'--reason': it is empty: say why in a few words\n")


@pytest.mark.parametrize("bound", ["nan", "1e400", "-0.1", "half"])
def test_a_bound_that_is_no_share_is_refused(project, bound):
    """No score lies on the wrong side of what is no number: it would count as reached."""
    code, output = say("open", "17", "--reason", "by mail", "--forget-at-most", bound)

    assert (code, list(project.glob("evidence/*"))) == (2, [])
    assert "Invalid value for '--forget-at-most'" in output


def test_a_request_can_be_opened_with_texts_of_its_own(project):
    opened("17", "--texts", str(write_texts(project / "own.jsonl", ["Cy, 555-0123"])))

    assert say("holds", "17", "--text", "Cy, 555-0123")[0] == 0
    assert say("holds", "17", "--text", TEXTS[0])[0] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("open", "../17", "--reason", "x"), "A request cannot be called '../17': "),
        (
            ("open", "17", "--reason", "x", "--env", "next"),
            "next_data/03_primary/forget_set.jsonl ",
        ),
        (
            ("open", "17", "--reason", "x", "--method", "no"),
            "The study 'base' has no method 'no'; ",
        ),
        (("open", "17", "--reason", "x", "--env", "no"), "There is no study 'no': "),
        (
            ("open", "17", "--reason", "x", "--texts", "odd.jsonl"),
            'odd.jsonl: "text" of record 2 is',
        ),
        (("served", "17", "seuf_ga"), "There is no request '17': "),
        (("revoke", "17", "--reason", "x"), "There is no request '17'; there are: none."),
        (("holds", "17", "--text", "x"), "There is no request '17': "),
        (("holds", "17"), "Give either --text or --texts."),
    ],
)
def test_one_line_says_what_was_wrong(project, arguments, message):
    write_texts(project / "odd.jsonl", ["a", 3])

    code, output = say(*arguments)

    assert code == 1
    assert re.fullmatch(f"error: {re.escape(message)}.*\n", output)
    assert not (project / "evidence").exists()


def test_the_ledger_tells_by_digest_which_model_serves_a_request(unlearned):
    opened("17")

    code, output = say("served", "17", "seuf_ga")

    path = Path("data/06_models/seuf_ga/delta.safetensors")
    delta, model = Delta.load(path), loaded(unlearned / "data/06_models/base_model")
    with delta.applied_to(model):
        after = model_digest(model)
    entry = read_ledger(unlearned)[1]
    assert (code, output) == (0, f"model {after[:12]} serves 17\n")
    assert (entry["base"], entry["model"]) == (delta.base, after)
    assert (entry["delta"], entry["covered"]) == (sha256s([path])[path], True)
    assert (entry["study"], entry["method"], entry["starts"]) == ("base", "seuf_ga", True)


def test_a_method_that_was_not_asked_to_forget_the_records_does_not_serve_them(unlearned):
    texts = write_texts(unlearned / "own.jsonl", [TEXTS[0], "Cy, 555-0123"])
    opened("17", "--texts", str(texts))

    code, output = say("served", "17", "seuf_ga")

    assert code == 1
    assert output.startswith("error: 1 of the 2 records of request 17 are not in data/03_primary/")
    assert len(read_ledger(unlearned)) == 1


@pytest.mark.parametrize("gone", [".salts/17", "data/03_primary/forget_set.jsonl"])
def test_with_the_forget_set_or_the_salt_gone_it_is_said_that_nobody_looked(unlearned, gone):
    opened("17")
    (unlearned / gone).unlink()

    code, output = say("served", "17", "seuf_ga")

    assert code == 0
    assert output.startswith("note: forget set or salt is gone: whether it has the records was")
    assert read_ledger(unlearned)[1]["covered"] is None


def test_a_method_that_has_not_run_serves_nothing(project):
    opened("17")

    code, output = say("served", "17", "seuf_ga")

    path = "data/06_models/seuf_ga/delta.safetensors"
    made = "`kedro dvc run --env base` makes it."
    assert (code, output) == (1, f"error: {path} is missing: {made}\n")


def test_a_second_request_is_served_on_top_of_the_first_and_the_first_then_revoked(unlearned):
    """The study `next` has the exported model of `base` for its own, as docs/requests.md shows."""
    root, folder = unlearned / "next_data", unlearned / "without_17"
    first = Delta.load(unlearned / "data/06_models/seuf_ga/delta.safetensors")
    export(unlearned / "data/06_models/base_model", first, folder)
    source = ExternalModelSettings(path=str(folder), device="cpu")
    CheckpointDataset(str(root / "06_models/base_model")).save(load_model(source))
    second = unlearn(folder, root, seed=2)
    write_texts(root / "03_primary/forget_set.jsonl", ["Cy, 555-0123"])
    opened("17")
    opened("18", "--env", "next")

    say("served", "17", "seuf_ga")
    both = say("served", "18", "seuf_ga", "--env", "next")
    after = say("list")
    revoked = say("revoke", "17", "--reason", "withdrawn")

    entries = read_ledger(unlearned)
    assert entries[3]["base"] == entries[2]["model"] == second.base
    assert both == (0, f"model {entries[3]['model'][:12]} serves 17, 18\n")
    rows = [row.split("|")[1:-1] for row in after[1].splitlines()[2:]]
    assert [[cell.strip() for cell in row] for row in rows] == [
        [name, entries[number]["date"], records, "served", entries[3]["model"][:12]]
        for number, (name, records) in enumerate([("17", "2"), ("18", "1")])
    ]
    assert revoked == (
        0,
        "revoked 17\n"
        f"model {first.base[:12]} is current again; it serves no request\n"
        "to be served again, from the current model: 18\n",
    )
    assert [row.split("|")[4].strip() for row in say("list")[1].splitlines()[2:]] == [
        "revoked",
        "to be served again",
    ]


def test_no_requests_are_listed_as_none(project):
    assert say("list") == (0, "none\n")


def test_a_ledger_that_is_gone_is_not_passed_over(project):
    """A folder in its place was taken for none, and its requests for none, too."""
    opened("17")
    (project / "evidence/ledger.json").unlink()

    gone = CliRunner().invoke(request, ["list"])
    (project / "evidence/ledger.json").mkdir()
    no_file = say("list")

    assert (gone.exit_code, gone.stdout) == (0, "none\n")
    assert gone.stderr == "note: the ledger has no request for evidence/requests/17.json\n"
    assert no_file == (1, "error: evidence/ledger.json cannot be read: Is a directory\n")


def test_a_request_whose_file_is_gone_is_said_to_be(project):
    """`kedro request list` sent one to itself."""
    opened("17")
    (project / "evidence/requests/17.json").unlink()

    said = "error: evidence/requests/17.json is missing, though evidence/ledger.json names it.\n"
    assert say("list") == (1, said)


def test_the_next_command_says_what_became_of_an_opening_that_was_cut_off(project):
    (project / ".salts").mkdir()
    (project / ".salts/.17.opening").write_bytes(b"x" * 32)

    listed = CliRunner().invoke(request, ["list"])

    assert (listed.exit_code, listed.stdout) == (0, "none\n")
    assert listed.stderr == (
        "note: opening request 17 was interrupted, and nothing is left of it: open it again\n"
    )
    opened("17")


def test_with_the_data_gone_the_salt_still_tells_what_a_request_held(project):
    opened("17")
    (project / "data/03_primary/forget_set.jsonl").unlink()
    asked = write_texts(project / "asked.jsonl", [TEXTS[1], "Bo, 555-0198"])

    one = say("holds", "17", "--text", TEXTS[0])
    several = say("holds", "17", "--texts", str(asked))
    (project / ".salts/17").unlink()
    lost = say("holds", "17", "--text", TEXTS[0])

    assert one == (0, "1 of 1 texts were among the records of request 17\n")
    assert several == (
        1,
        "1 of 2 texts were among the records of request 17\nnot among them: record 2\n",
    )
    assert lost[0] == 1
    assert lost[1].startswith("error: .salts/17 is missing: without its salt nobody can tell")


@pytest.mark.parametrize(
    ("option", "folder"),
    [
        ("--sign", "the folder for the signed statement"),
        ("--issuer", "the folder for the certificate"),
    ],
)
def test_an_audit_that_is_to_sign_and_write_nothing_is_refused_in_one_line(project, option, folder):
    ended = CliRunner().invoke(audit, ["seuf_ga", option, "x"])

    assert (ended.exit_code, ended.output) == (1, f"error: {option} needs --out, {folder}.\n")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--request", "18"], "There is no request '18': "),
        (["--request", ""], "A request cannot be called '': "),
        (["--checkpoint", "none"], "--checkpoint none: there is no such folder."),
        (["--out", "x", "--sign", "none"], "--sign none: there is no such file."),
        (["--since", "none", "--key", "none"], "--since none: there is no such file."),
    ],
)
def test_what_an_audit_is_given_is_refused_before_it_begins(project, options, said):
    """An empty id was taken for none, and the audit passed."""
    ended = CliRunner().invoke(audit, ["seuf_ga", *options])

    assert (ended.exit_code, ended.output[: len(said) + 7]) == (1, f"error: {said}")
    assert ended.output.count("\n") == 1


def test_json_that_kedro_has_begun_with_a_line_of_its_own_is_refused(project, monkeypatch):
    """Kedro prints it below the root, where it finds no conf/logging.yml, before we are asked."""
    (project / "pyproject.toml").write_text("[tool.kedro]\n")
    (project / "docs").mkdir()
    monkeypatch.chdir(project / "docs")
    monkeypatch.delenv("KEDRO_LOGGING_CONFIG", raising=False)

    refused = CliRunner().invoke(audit, ["seuf_ga", "--json"])
    monkeypatch.chdir(project / "docs")
    monkeypatch.setenv("KEDRO_LOGGING_CONFIG", str(project / "conf/logging.yml"))
    let = CliRunner().invoke(audit, ["no_such_method", "--json"])

    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr == (
        "error: below the project's root Kedro prints a line to stdout first: call this "
        f"from {project}, or set KEDRO_LOGGING_CONFIG={project}/conf/logging.yml\n"
    )
    assert "prints a line" not in let.output


def test_an_input_error_is_a_line_on_stderr_and_the_exit_code(capsys):
    with pytest.raises(SystemExit) as ended, exit_on_input_error():
        raise InputError("no such method")

    assert ended.value.code == 1
    assert capsys.readouterr() == ("", "error: no such method\n")


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), exit_on_input_error():
        raise ZeroDivisionError


def test_a_folder_below_the_project_is_the_project(project, monkeypatch):
    """Else it would have a ledger and salts of its own; a path is from where one stands."""
    (project / "pyproject.toml").write_text("[tool.kedro]\n")
    opened("17")
    (project / "docs/deep").mkdir(parents=True)
    write_texts(project / "docs/deep/asked.jsonl", TEXTS)
    monkeypatch.chdir(project / "docs/deep")

    listed = say("list")
    monkeypatch.chdir(project / "docs/deep")
    held = say("holds", "17", "--texts", "asked.jsonl")

    assert "| 17" in listed[1]
    assert held == (0, "2 of 2 texts were among the records of request 17\n")
    assert [path.name for path in (project / "docs/deep").iterdir()] == ["asked.jsonl"]


def test_what_was_made_of_the_model_stands_in_the_ledger_by_name_and_digest(unlearned):
    """The digest is that of the folder's listing as sha256sum prints it."""
    opened("17")
    (unlearned / "small/deep").mkdir(parents=True)
    (unlearned / "small/deep/a").write_text("x")
    before = say("derived", "17", "small")
    say("served", "17", "seuf_ga")

    code, _ = say("derived", "17", "small", "--how", "4 bits")

    listing = f"{hashlib.sha256(b'x').hexdigest()}  deep/a\n"
    assert (before[0], before[1][:34]) == (1, "error: No model serves request 17:")
    entry = read_ledger(unlearned)[-1]
    assert (code, entry["name"], entry["how"]) == (0, "small", "4 bits")
    assert entry["sha256"] == hashlib.sha256(listing.encode()).hexdigest()
    assert [one["name"] for one in derived_models(unlearned, "17")] == ["small"]
    say("revoke", "17", "--reason", "withdrawn")
    assert derived_models(unlearned, "17") == []


def test_the_help_of_the_audit_shows_its_method_and_examples():
    said = CliRunner().invoke(audit, ["--help"]).stdout

    assert "METHOD [OPTIONS] | COMMAND" in said.splitlines()[0]
    assert "METHOD is a name from the study's table of methods" in said
    assert "\n    kedro audit seuf_ga\n" in said


def test_the_list_refuses_a_ledger_that_says_otherwise_than_its_requests(project):
    opened("17")
    path = project / "evidence/ledger.json"
    path.write_text(path.read_text().replace('"records": 2', '"records": 1'))

    code, output = say("list")

    assert (code, output.count("\n")) == (1, 1)
    assert (
        "records of request 17 is 1 in evidence/ledger.json and 2 in evidence/requests/17.json"
        in output
    )
