"""Which methods can be audited."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path

import pytest

from kedro_dvc.project import load_study
from seuf.audit.audited import AuditedMethod
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
