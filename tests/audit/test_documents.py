"""What an audit hands on."""

import json

from seuf.audit.documents import write_documents
from tests.audit.reports import FORGET, FORGET_MD5, FORGET_PATH, RETAIN, RETAIN_PATH, RUNS, report


def test_no_document_holds_a_digest_of_a_confidential_file(tmp_path):
    """The passages are no material of the delta: only the evaluation reads them."""
    passages, digest = "data/03_primary/passages.jsonl", "9a" * 32
    outputs = {FORGET_PATH: FORGET, RETAIN_PATH: RETAIN, passages: digest}
    about = report(runs=[RUNS[0] | {"outputs": outputs}])

    files = write_documents(about, tmp_path, {FORGET_PATH, passages}, None)

    text = "".join(file.read_text() for file in files)
    assert len(files) == 4
    assert [secret for secret in (FORGET, FORGET_MD5, digest) if secret in text] == []
    (run,) = json.loads((tmp_path / "audit.json").read_text())["runs"]
    assert run["outputs"] == {RETAIN_PATH: RETAIN}
