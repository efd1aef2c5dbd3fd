"""An audit of a study that has run passes; each tampering fails, and is named."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from safetensors import safe_open
from safetensors.torch import save_file

from kedro_dvc.hashing import digests
from kedro_dvc.project import load_study
from seuf.audit import Check
from seuf.audit.attest import make_keys
from seuf.audit.audited import AuditedMethod
from seuf.audit.documents import write_documents
from seuf.audit.replay import check_replay
from seuf.audit.report import CHECKS, audit, first_cause
from seuf.audit.verify import verify
from tests.workflow.conftest import Project, World

METHOD = "seuf_gdiff"
DATA = "studies/smoke/data"
LOCK = "studies/smoke/dvc.lock"
DELTA = f"{DATA}/06_models/{METHOD}/delta.safetensors"
SCORES = f"{DATA}/07_model_output/{METHOD}/scores.json"
COMPARISON, HEADLINE = (
    f"{DATA}/08_reporting/{name}" for name in ("comparison.csv", "headline.json")
)
FORGET = f"{DATA}/03_primary/forget_set.jsonl"
BASE = f"{DATA}/06_models/base_model/model.safetensors"

pytestmark = pytest.mark.timeout(900)
Report = dict[str, Any]


@pytest.fixture
def root(world: World, tmp_path: Path) -> Path:
    """A copy of the project after the study has run, to be tampered with."""
    return world.project.copy(tmp_path / "project").root


def commit(root: Path) -> None:
    """Commit all that there is."""
    Project(root).commit()


def report_of(root: Path) -> Report:
    """Return the report of the audit, made in this process."""
    with chdir(root):
        return audit(AuditedMethod(load_study(root, "smoke"), METHOD))


def failures(report: Report) -> dict[str, list[str]]:
    """Return what failed, by the name of the check."""
    found: dict[str, list[str]] = {}
    for check in report["checks"]:
        if check["result"] == "FAIL":
            found.setdefault(check["name"], []).append(check["text"])
    return found


def replace(path: Path, old: bytes, new: bytes) -> None:
    """Replace bytes in a file that may be a read-only link into DVC's cache."""
    content = path.read_bytes()
    assert old in content
    path.unlink()
    path.write_bytes(content.replace(old, new, 1))


def flip(path: Path) -> None:
    """Flip the last bit of a file."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink()
    path.write_bytes(content)


def test_a_study_that_has_run_and_is_committed_passes_every_check(root):
    report = report_of(root)

    assert failures(report) == {}
    assert report["verdict"] == "PASS"
    assert {c["name"] for c in report["checks"] if c["result"] == "PASS"} >= {
        *("commit", "dvc.yaml", "lock", "lineage", "bytes", "cache", "runs"),
        *("base", "weights", "method", "expert", "answers", "report"),
    }
    assert [run["stage"] for run in report["runs"]][:2] == ["prepare_data", "make_base_model"]
    assert report["changes"]["changed"] < report["changes"]["total"]


def a_bit_in_delta_forget_set_and_scores(root: Path) -> None:
    for path in (DELTA, FORGET, SCORES):
        flip(root / path)


def uncommitted_code_and_parameter(root: Path) -> None:
    path = root / "src/seuf/unlearning/algorithm.py"
    path.write_text(path.read_text() + "# changed\n")
    path = root / "conf/base/parameters_unlearning.yml"
    path.write_text(path.read_text().replace("steps: ", "steps: 1", 1))


def a_bit_in_the_base(root: Path) -> None:
    flip(root / BASE)


def an_edited_lock(root: Path) -> None:
    """The unlearning seems to have read another forget set."""
    path = root / LOCK
    lock = yaml.safe_load(path.read_text())
    deps = lock["stages"][f"unlearn@{METHOD}"]["deps"]
    next(dep for dep in deps if dep["path"] == FORGET)["md5"] = "0" * 32
    path.write_text(yaml.safe_dump(lock, sort_keys=False))
    commit(root)


def an_edited_command(root: Path) -> None:
    path = root / LOCK
    path.write_text(path.read_text().replace(f"methods.{METHOD}.unlearn", "methods.other.unlearn"))
    commit(root)


def a_path_out_of_the_project(root: Path) -> None:
    path = root / LOCK
    lock = yaml.safe_load(path.read_text())
    outs = lock["stages"]["prepare_data"]["outs"]
    outs.append({"path": "../elsewhere", "md5": "0" * 32, "size": 1})
    path.write_text(yaml.safe_dump(lock, sort_keys=False))
    commit(root)


def an_edited_record(root: Path) -> None:
    path = root / f"evidence/smoke/runs/methods.{METHOD}.unlearn.json"
    record = json.loads(path.read_text())
    record["outputs"][DELTA] = "0" * 64
    path.write_text(json.dumps(record))
    commit(root)


def a_record_of_another_node_at_no_time(root: Path) -> None:
    path = root / f"evidence/smoke/runs/methods.{METHOD}.unlearn.json"
    record = json.loads(path.read_text())
    record |= {"node": "methods.full_ga.unlearn", "seconds": 9e8}
    path.write_text(json.dumps(record))
    commit(root)


def a_lock_without_the_stage_that_made_the_data(root: Path) -> None:
    """Nothing in it says any more where the forget set came from."""
    lock = yaml.safe_load((root / LOCK).read_text())
    del lock["stages"]["prepare_data"]
    (root / LOCK).write_text(yaml.safe_dump(lock, sort_keys=False))
    commit(root)


def a_report_without_a_digest(root: Path) -> None:
    lock = yaml.safe_load((root / LOCK).read_text())
    (report,) = lock["stages"]["write_report"]["outs"]
    del report["md5"]
    (root / LOCK).write_text(yaml.safe_dump(lock, sort_keys=False))
    commit(root)


def rewrite(root: Path, path: str, content: bytes | str) -> None:
    """Write an output, and its digests in lock and records, as who may commit can do."""
    old = digests([root / path])[root / path]
    (root / path).unlink()
    (root / path).write_bytes(content if isinstance(content, bytes) else content.encode())
    new = digests([root / path])[root / path]
    lock = re.sub(
        rf"md5: {old.md5}\n( +)size: {old.size}\b",
        rf"md5: {new.md5}\n\g<1>size: {new.size}",
        (root / LOCK).read_text(),
    )
    (root / LOCK).write_text(lock)
    for record in (root / "evidence/smoke/runs").iterdir():
        record.write_text(record.read_text().replace(old.sha256, new.sha256))
    commit(root)


def a_score_before(root: Path) -> None:
    """The original's row is where the certificate has the scores before from."""
    table = pd.read_csv(root / COMPARISON)
    table.loc[table["method"] == "original", "utility"] = 0.123
    rewrite(root, COMPARISON, table.to_csv(index=False))


def a_standard_error(root: Path) -> None:
    """It decides whether a forgetting is REACHED or NOT SHOWN."""
    scores = json.loads((root / SCORES).read_text())
    scores["questions"]["forget"]["standard_error"] = 0.0
    rewrite(root, SCORES, json.dumps(scores))


def a_delta_of_nothing(root: Path) -> None:
    """Its scores are those of the one that was."""
    with safe_open(root / DELTA, "pt") as file:
        about = file.metadata()
    save_file({}, root / "none", about)
    rewrite(root, DELTA, (root / "none").read_bytes())


def a_headline(root: Path) -> None:
    """`dvc metrics show` prints it."""
    headline = json.loads((root / HEADLINE).read_text())
    rewrite(root, HEADLINE, json.dumps({**headline, "FE_original": 1.0}))


def scores_that_are_none(root: Path) -> None:
    """It ended in a traceback."""
    rewrite(root, SCORES, json.dumps({**json.loads((root / SCORES).read_text()), "questions": [1]}))


def code_that_git_overlooks(root: Path) -> None:
    path = "src/seuf/audit/results.py"
    subprocess.run(["git", "update-index", "--assume-unchanged", path], cwd=root, check=True)
    with (root / path).open("a", encoding="utf-8") as file:
        file.write("CLOSE = 1e9\n")


def a_lost_record(root: Path) -> None:
    (root / f"evidence/smoke/runs/methods.{METHOD}.unlearn.json").unlink()
    commit(root)


@pytest.mark.slow
def test_the_command_that_an_audit_names_brings_back_the_record_of_a_restored_stage(root):
    """DVC's run-cache has its outputs, so `dvc repro` runs nothing and nothing is recorded."""
    record, chosen = "evidence/smoke/runs/select_experts.json", "05_model_input/selected_experts"
    for path in (record, f"{DATA}/{chosen}.json"):
        (root / path).unlink()
    lock = yaml.safe_load((root / LOCK).read_text())
    del lock["stages"]["select_experts"]
    (root / LOCK).write_text(yaml.safe_dump(lock))
    project = Project(root)
    project.dvc("repro", "--single-item", "studies/smoke/dvc.yaml:select_experts")
    commit(root)
    assert not (root / record).exists()
    ((text,),) = failures(report_of(root)).values()
    command = text.split("`")[1].split()

    project.done(*command)
    commit(root)

    assert command[:2] == ["dvc", "repro"]
    assert report_of(root)["verdict"] == "PASS"


def a_replaced_object(root: Path) -> None:
    """Read-only, which is what makes DVC believe it."""
    lock = yaml.safe_load((root / LOCK).read_text())
    outs = lock["stages"][f"unlearn@{METHOD}"]["outs"]
    md5 = next(out["md5"] for out in outs if out["path"] == DELTA)
    path = root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    path.chmod(0o644)
    flip(path)
    path.chmod(0o444)


def a_truncated_delta(root: Path) -> None:
    content = (root / DELTA).read_bytes()
    (root / DELTA).unlink()
    (root / DELTA).write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("tamper", "check", "named"),
    [
        (
            a_bit_in_delta_forget_set_and_scores,
            "bytes",
            [f"{path} is not what dvc.lock records" for path in (DELTA, FORGET, SCORES)],
        ),
        (a_bit_in_the_base, "base", ["base"]),
        (a_truncated_delta, "weights", ["delta.safetensors"]),
        (
            uncommitted_code_and_parameter,
            "commit",
            [
                "src/seuf/unlearning/algorithm.py",
                "conf/base/parameters_unlearning.yml",
                "not as in commit",
            ],
        ),
        (an_edited_lock, "lineage", [f"unlearn@{METHOD} read another {FORGET} than prepare_data"]),
        (an_edited_command, "lock", [f"command of unlearn@{METHOD}"]),
        (a_path_out_of_the_project, "lock", ["outputs of prepare_data"]),
        (
            an_edited_record,
            "runs",
            [f"{DELTA} is not what the run of unlearn@{METHOD} recorded"],
        ),
        (
            a_record_of_another_node_at_no_time,
            "runs",
            [
                f"the record of unlearn@{METHOD} is of 'methods.full_ga.unlearn'",
                f"the record of unlearn@{METHOD} ends in the future",
            ],
        ),
        (
            a_lock_without_the_stage_that_made_the_data,
            "lock",
            [f"it has no stage that writes {FORGET}; dvc.yaml has prepare_data"],
        ),
        (
            a_report_without_a_digest,
            "lock",
            ["it has no stage that writes", "report.html; dvc.yaml has write_report"],
        ),
        (a_score_before, "report", [f"{COMPARISON} is not what the results of all methods make"]),
        (a_standard_error, "answers", ["forget: the answers make a standard error of"]),
        (a_delta_of_nothing, "scores", ["changed tensors; the delta has 0"]),
        (a_headline, "report", [f"{HEADLINE} is not what the results of all methods make"]),
        (scores_that_are_none, "scores", ["cannot be read: AttributeError"]),
        (
            code_that_git_overlooks,
            "commit",
            ["git is set to ignore changes of", "src/seuf/audit/results.py"],
        ),
        (a_lost_record, "runs", [f"unlearn@{METHOD} has no record of its run"]),
        (a_replaced_object, "cache", ["in DVC's cache is not what its name says"]),
    ],
)
def test_tampering_fails_and_is_named(
    root: Path, tamper: Callable[[Path], None], check: str, named: list[str]
):
    tamper(root)

    report = report_of(root)

    assert report["verdict"] == "FAIL"
    text = "\n".join(failures(report)[check])
    assert [name for name in named if name not in text] == []
    assert any(first_cause(report) in texts for texts in failures(report).values())


def test_what_is_written_while_it_is_audited_fails(root, monkeypatch):
    """The delta is hashed, then its weights are read: another one could come between.

    So it is of the scores, though their time was set back; that a file got a link is no change.
    """
    check_method = CHECKS["method"]

    def after_another_write(*given: Any) -> Iterator[Check]:
        content = (root / DELTA).read_bytes()
        (root / DELTA).unlink()
        (root / DELTA).write_bytes(content)
        os.link(root / FORGET, root / "backup")
        times = (root / SCORES).stat()
        (root / SCORES).chmod(0o644)
        (root / SCORES).write_bytes((root / SCORES).read_bytes())
        os.utime(root / SCORES, ns=(times.st_atime_ns, times.st_mtime_ns))
        commit(root)
        return check_method(*given)

    monkeypatch.setitem(CHECKS, "method", after_another_write)
    found = failures(report_of(root))

    assert found == {
        "bytes": [f"{DELTA}, {SCORES} written during the audit: audit again"],
        "commit": ["another commit was checked out during the audit"],
    }


def test_scores_that_are_edited_together_with_the_lock_still_fail(root):
    """Whoever writes scores, their MD5 and a commit has not written the run's record."""
    scores = json.loads((root / SCORES).read_text())
    scores["questions"]["forget"]["accuracy"] = scores["headline"]["forget"]["value"] = 0.0
    scores["produced"]["retain"]["value"] = 0.9
    old = yaml.safe_load((root / LOCK).read_text())["stages"][f"evaluate@{METHOD}"]["outs"][0]
    (root / SCORES).unlink()
    (root / SCORES).write_text(json.dumps(scores))
    with chdir(root):
        new = digests([Path(SCORES)])[Path(SCORES)]
    lock = (root / LOCK).read_text().replace(old["md5"], new.md5)
    (root / LOCK).write_text(lock.replace(f"size: {old['size']}", f"size: {new.size}"))
    commit(root)

    found = failures(report_of(root))

    assert "bytes" not in found
    assert f"{SCORES} is not what the run of evaluate@{METHOD}" in found["runs"][0]
    assert "forget: the answers make an accuracy of" in found["answers"][0]
    assert "retain: the answers make a share of" in found["answers"][1]
    assert any("forget_efficacy is" in text for text in found["report"])


def test_after_the_data_is_erased_the_audit_passes_on_hashes_and_says_what_is_gone(root):
    for name in ("forget_set", "questions", "pretraining_texts"):
        (root / f"{DATA}/03_primary/{name}.jsonl").unlink()

    report = report_of(root)

    assert report["verdict"] == "PASS"
    notes = {
        check["name"]: check["text"] for check in report["checks"] if check["result"] == "NOTE"
    }
    assert f"{FORGET}" in notes["erased"]
    assert "can no longer be read" in notes["erased"]
    gone = [one for one in report["materials"] if not one["here"]]
    assert {Path(one["path"]).stem for one in gone} == {
        "forget_set",
        "questions",
        "pretraining_texts",
    }
    assert all(len(one["sha256"]) == 64 and one["confidential"] for one in gone)
    with chdir(root):
        again = check_replay(AuditedMethod(load_study(root, "smoke"), METHOD))
    assert (again.result, again.text) == (
        "FAIL",
        f"the delta cannot be made again: {root / FORGET} does not exist.",
    )


def test_a_signed_statement_is_verified_with_delta_and_base_alone(root, tmp_path):
    private, public = make_keys(tmp_path / "keys")
    with chdir(root):
        pages = write_documents(report_of(root), tmp_path / "evidence", set(), private)
    folder, statement = tmp_path / "elsewhere", tmp_path / "evidence/statement.json"
    folder.mkdir()
    shutil.copy(root / DELTA, folder / "delta.safetensors")
    shutil.copytree(root / Path(BASE).parent, folder / "base")
    delta, base = folder / "delta.safetensors", folder / "base"

    checks = verify(statement, public, delta, base)

    signed = json.loads(base64.b64decode(json.loads(statement.read_text())["payload"]))
    evidence = {
        one["name"]
        for one in signed["predicate"]["buildDefinition"]["resolvedDependencies"]
        if one["annotations"].get("role") == "evidence"
    }
    assert evidence == {
        "studies/smoke/dvc.lock: stages",
        SCORES,
        *(
            f"evidence/smoke/runs/{node}.json"
            for node in (
                *("prepare_data", "make_base_model", "capture_routing", "select_experts"),
                *(f"methods.{METHOD}.{one}" for one in ("unlearn", "evaluate")),
            )
        ),
    }
    assert {page.name for page in pages} == {
        *("audit.json", "statement.json", "bom.cdx.json", "certificate.html")
    }
    assert {check.result for check in checks} == {"PASS"}
    assert {"signature", "delta", "base", "weights"} <= {check.name for check in checks}

    other = make_keys(tmp_path / "other")[1]
    assert [check.result for check in verify(statement, other, delta, base)] == ["FAIL"]

    flip(delta)
    assert "FAIL" in {check.result for check in verify(statement, public, delta, base)}


def test_a_failed_audit_attests_nothing(root, tmp_path):
    with chdir(root):
        write_documents(report_of(root), tmp_path, set(), None)
        assert (tmp_path / "statement.json").is_file()
        flip(root / DELTA)
        write_documents(report_of(root), tmp_path, set(), None)

    assert not (tmp_path / "statement.json").exists()
    assert not (tmp_path / "bom.cdx.json").exists()
    assert "no certificate" in (tmp_path / "certificate.html").read_text()


def test_after_an_erasure_of_all_that_is_kept_apart_no_sentence_is_left_anywhere(root):
    """In outputs, caches, logs, views of kedro-viz and leftovers; examples/ has other data."""
    records = [
        json.loads(line)
        for name in ("forget_set", "questions")
        for line in (root / f"{DATA}/03_primary/{name}.jsonl").read_text().splitlines()
    ]
    texts = [one["text"] for one in records if "text" in one]
    texts += [one["question"] for one in records if one.get("subject") == "forget"]
    (root / ".viz").mkdir(exist_ok=True)
    (root / ".viz/runs_of_smoke.json").write_text(json.dumps([{"error": texts[0]}]))
    before = left(root, texts)
    opening = ("request", "open", "17", "--reason", "by mail", "--env", "smoke")
    assert Project(root).invoke(*opening).exit_code == 0

    erase = ("dvc", "erase", "--kept-apart", "--shared", "--yes", "--env", "smoke", "--for", "17")
    assert Project(root).invoke(*erase).exit_code == 0

    assert {FORGET, SCORES, ".viz/runs_of_smoke.json"} <= before
    assert left(root, texts) == set()
    uncommitted = failures(report_of(root))["commit"][0]
    commit(root)
    report = report_of(root)
    erased = r"erased on \d{4}-\d\d-\d\dT[\d:]{8}\+00:00 for request 17"
    assert uncommitted.startswith("evidence/smoke/erased.json not as in commit")
    assert failures(report).keys() == {"scores"}
    why = failures(report)["scores"][0]
    assert re.fullmatch(rf"{SCORES} was {erased}: it cannot be computed again", why)
    noted = next(one["text"] for one in report["checks"] if one["name"] == "erased")
    assert re.search(rf"can no longer be read, only the hash is known: {erased}$", noted)
    with chdir(root):
        again = check_replay(AuditedMethod(load_study(root, "smoke"), METHOD))
    assert re.fullmatch(rf"the delta cannot be made again: {FORGET} was {erased}", again.text)


def left(root: Path, texts: list[str]) -> set[str]:
    """Return the files of a tree that hold one of the texts, but for git's and the examples."""
    known = [text.encode() for text in texts] + [json.dumps(text).encode()[1:-1] for text in texts]
    files = [path for path in root.rglob("*") if path.is_file()]
    names = {path: str(path.relative_to(root)) for path in files}
    return {
        name
        for path, name in names.items()
        if not name.startswith((".git/", "examples/"))
        and any(text in content for content in [path.read_bytes()] for text in known)
    }
