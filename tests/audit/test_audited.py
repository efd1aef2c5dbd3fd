"""Which methods can be audited."""

from __future__ import annotations

import json
from contextlib import chdir
from pathlib import Path
from types import SimpleNamespace

import pytest

from kedro_dvc.project import load_study
from seuf.audit.audited import AuditedMethod, Stage
from seuf.audit.report import audit
from seuf.inputs import InputError

ROOT = Path(__file__).parents[2]


def test_a_study_of_repetitions_keeps_no_deltas_and_says_so():
    with chdir(ROOT):
        audited = AuditedMethod(load_study(ROOT, "sandbox_seeds"), "seuf_ga")

    with pytest.raises(InputError, match="'sandbox_seeds' keeps no deltas"):
        audit(audited)


def test_an_unknown_method_is_told_the_others():
    with chdir(ROOT):
        audited = AuditedMethod(load_study(ROOT, "smoke"), "nobody")

    with pytest.raises(InputError, match=r"no method 'nobody'; it has .*seuf_gdiff"):
        _ = audited.settings


def test_a_file_outside_the_project_is_read_like_others(tmp_path):
    """Own data may lie anywhere; an audit ended in `is not in the subpath`."""
    project, outside = tmp_path / "project", tmp_path / "own.jsonl"
    project.mkdir()
    for path in (outside, project / "in"):
        path.write_text("one\n")
    audited = AuditedMethod(SimpleNamespace(project=project, name="base"), "m")
    stage = Stage("make", "x", {str(outside): None, "in": None, "gone": None}, {}, {})
    audited.__dict__["stages"] = [stage]

    assert {path: one.size for path, one in audited.digests.items()} == {str(outside): 4, "in": 4}
    assert sorted(audited.stamps()) == ["../own.jsonl", "in"]


def test_of_a_model_outside_the_project_the_name_alone_is_told(tmp_path, monkeypatch):
    """Where it lies may be a person's home: a certificate tells of `llama`, not of /home/ada."""
    monkeypatch.setattr("seuf.moe.loading.checkpoint_of", lambda source: Path(source.path))
    (tmp_path / "base").mkdir()
    study = SimpleNamespace(project=tmp_path, dataset=lambda _: {"filepath": "base"})

    told = []
    for path in ("/home/ada/llama", "org/model", "models/mine"):
        source = json.dumps({"source": {"source": "external", "path": path}})
        (tmp_path / "base/reference.json").write_text(source)
        told.append(AuditedMethod(study, "m").base[0])

    assert told == ["llama", "org/model", "models/mine"]


def test_a_line_of_records_ends_at_a_newline_only(tmp_path):
    """JSON leaves U+2028 and U+0085 in a text as they are."""
    (tmp_path / "q.jsonl").write_text('{"q": "a\u2028b\u0085c"}\n{"q": "d"}\n', encoding="utf-8")
    study = SimpleNamespace(project=tmp_path, dataset=lambda _: {"filepath": "q.jsonl"})
    audited = AuditedMethod(study, "m")

    assert audited.read("questions") == [{"q": "a\u2028b\u0085c"}, {"q": "d"}]
