"""A request tells what is to be forgotten to who has its salt, and to nobody else."""

import hashlib
import hmac
import itertools
import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seuf.audit import requests as requests_module
from seuf.audit.ledger import read_ledger, write_entry
from seuf.audit.requests import (
    are_records,
    check_id,
    count_missing,
    finish_openings,
    keep_salt,
    new_salt,
    open_request,
    read_request,
    read_salt,
    record_digests,
    reported_request,
    serving_entry,
)
from seuf.inputs import InputError

DATE = "2026-11-25T12:00:00+00:00"
TEXTS = ["Ada Lindqvist, 555-0100", "Bo Åkesson, 555-0199"]
REASON = {"reason": "asked by mail", "study": "sandbox", "method": "seuf_ga"}


@pytest.fixture
def project(tmp_path):
    """A project in which request 17 was opened."""
    open_request(tmp_path, "17", TEXTS, date=DATE, **REASON)
    return tmp_path


def test_the_digests_are_hmacs_as_openssl_makes_them(project):
    salt = read_salt(project, "17").hex()

    def openssl(data):
        key = f"hexkey:{salt}"
        command = ["openssl", "dgst", "-sha256", "-mac", "HMAC", "-macopt", key]
        return subprocess.run(command, input=data, check=True, capture_output=True).stdout.split()

    lines = (project / "evidence/requests/17.digests").read_bytes()
    expected = sorted(openssl(text.encode())[-1] for text in TEXTS)
    assert lines.split() == expected
    assert read_request(project, "17")["digest"] == openssl(lines)[-1].decode()


def test_a_record_is_its_text_to_the_letter():
    """RFC 4231, test case 2; and a space or another form of a letter makes another record."""
    published = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"

    assert record_digests(b"Jefe", ["what do ya want for nothing?"]) == [published]
    assert len(set(record_digests(b"salt", ["é", "e\u0301", "é ", "É"]))) == 4


def test_a_request_tells_all_but_the_text(project):
    request = json.loads((project / "evidence/requests/17.json").read_text())

    lines = (project / "evidence/requests/17.digests").read_bytes()
    assert request.pop("digest") == reported_request(project, "17")["digest"]
    assert request == {
        "id": "17",
        "date": DATE,
        "records": 2,
        "digests_sha256": hashlib.sha256(lines).hexdigest(),
        **REASON,
    }
    for path in (project / "evidence").rglob("*.*"):
        for word in ("Ada", "Lindqvist", "0100", "kesson"):
            assert word not in path.read_text(encoding="utf-8")


def test_no_plain_hash_of_a_record_is_written(project):
    written = "".join(path.read_text() for path in (project / "evidence").rglob("*.*"))

    for text in TEXTS:
        for kind in ("md5", "sha1", "sha256"):
            assert hashlib.new(kind, text.encode()).hexdigest() not in written


def test_the_same_texts_have_other_digests_in_another_request(project):
    open_request(project, "18", TEXTS, date=DATE, **REASON)

    one, other = (
        set((project / f"evidence/requests/{name}.digests").read_text().split())
        for name in ("17", "18")
    )
    assert len(one) == len(other) == 2
    assert not one & other


def test_with_the_salt_texts_can_be_told_from_others(project):
    asked = [TEXTS[1], "Ada Lindqvist, 555-0101", TEXTS[0], f"{TEXTS[0]}\n"]

    assert are_records(project, "17", asked) == [True, False, True, False]
    assert count_missing(project, "17", TEXTS) == 0
    assert count_missing(project, "17", [TEXTS[0], "another"]) == 1


def test_without_the_salt_they_cannot(project):
    (project / ".salts/17").unlink()

    with pytest.raises(InputError, match="nobody can tell what request 17 was about"):
        are_records(project, "17", TEXTS)


def test_another_salt_is_noticed(project):
    (project / ".salts/17").write_bytes(bytes(32))

    with pytest.raises(InputError, match=r"^\.salts/17 is not the salt of request 17\.$"):
        are_records(project, "17", TEXTS)


def test_edited_digests_are_noticed(project):
    path = project / "evidence/requests/17.digests"
    path.write_text(path.read_text().splitlines()[0] + "\n")

    with pytest.raises(InputError, match=r"17\.digests is missing or was changed"):
        are_records(project, "17", TEXTS)


def test_an_edited_request_is_noticed(project):
    path = project / "evidence/requests/17.json"
    path.write_text(path.read_text().replace("asked by mail", "asked by phone"))

    with pytest.raises(InputError, match=r"17\.json was changed"):
        reported_request(project, "17")


@pytest.mark.parametrize(
    ("name", "said"),
    [("17.json", "was changed"), ("17.digests", "is missing or was changed")],
)
def test_files_that_are_no_text_are_noticed(project, name, said):
    (project / "evidence/requests" / name).write_bytes(b"\xff\xfe")

    with pytest.raises(InputError, match=said):
        reported_request(project, "17")


def test_a_report_gets_what_it_tells_of_a_request(project):
    told = reported_request(project, "17")

    digest = read_request(project, "17")["digest"]
    assert told == {
        "id": "17",
        "date": DATE,
        "reason": "asked by mail",
        "records": 2,
        "digest": digest,
    }


def test_a_revoked_request_is_in_no_report(project):
    revoked = {"what": "revoked", "request": "17", "date": DATE, "reason": "withdrawn"}
    write_entry(project, revoked)

    with pytest.raises(InputError, match=r"^Request 17 was revoked: no model serves it\.$"):
        reported_request(project, "17")


def test_what_serves_a_request_is_found(project):
    assert serving_entry(project, "17") is None
    served = {
        "what": "served",
        "request": "17",
        "date": DATE,
        "study": "base",
        "method": "seuf_ga",
        "delta": "d",
        "base": "b",
        "model": "m",
        "starts": True,
        "covered": True,
    }

    write_entry(project, served)

    previous = read_ledger(project)[1]["previous"]
    assert serving_entry(project, "17") == {**served, "previous": previous}
    write_entry(project, {"what": "revoked", "request": "17", "date": DATE, "reason": "withdrawn"})
    assert serving_entry(project, "17") is None


def test_an_id_that_exists_is_refused_and_nothing_is_touched(project):
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}

    with pytest.raises(InputError, match=r"^Request 17 exists: choose another id\.$"):
        open_request(project, "17", ["another"], date=DATE, **REASON)

    assert before == {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}


def test_an_id_is_not_free_again_because_its_file_is_gone(project):
    (project / "evidence/requests/17.json").unlink()

    with pytest.raises(InputError, match="Request 17 exists"):
        open_request(project, "17", ["another"], date=DATE, **REASON)


def test_a_file_without_an_entry_in_the_ledger_is_said_to_be_in_the_way(tmp_path):
    (tmp_path / "evidence/requests").mkdir(parents=True)
    (tmp_path / "evidence/requests/17.json").write_text("{}")

    with pytest.raises(InputError, match=r"^evidence/requests/17\.json exists, though the ledger"):
        open_request(tmp_path, "17", TEXTS, date=DATE, **REASON)


def killed_at(step: int, project: Path, work: Callable[[], object]) -> bool:
    """Do something in a process that is killed before it touches a file of a project so often.

    Returns:
        Whether it was; if not, it has come to its end.
    """
    if (pid := os.fork()) == 0:
        steps = itertools.count()

        def kill(event: str, arguments: tuple[object, ...]) -> None:
            touches = event in ("open", "os.rename", "os.remove", "os.chmod", "os.mkdir")
            ours = any(str(project) in str(one) or isinstance(one, int) for one in arguments[:1])
            if touches and ours and next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(kill)
        work()
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def contents(project: Path) -> list[str]:
    """Return the files that are there, but for the lock, which the next writer removes."""
    files = (str(one.relative_to(project)) for one in project.rglob("*") if one.is_file())
    return sorted(name for name in files if name != ".ledger.lock")


def test_an_opening_that_is_killed_at_any_point_is_completed_or_undone(tmp_path):
    """So its id is never lost, its salt never, and no file without an entry is left."""
    expected = [".salts/.gitignore", ".salts/17"]
    expected += [f"evidence/{name}" for name in ("ledger.json", "requests/17.digests")]
    expected += ["evidence/requests/17.json"]
    told, killed, step = set(), True, 0
    while killed:
        project = tmp_path / str(step)
        project.mkdir()
        open_ = partial(open_request, project, "17", TEXTS, date=DATE, **REASON)
        killed, step = killed_at(step, project, open_), step + 1

        said = finish_openings(project)

        told.update(line.split(",")[0] for line in said)
        assert finish_openings(project) == []
        if not (project / "evidence/ledger.json").exists():
            assert [name for name in contents(project) if "17" in name] == []
            open_()
        assert are_records(project, "17", TEXTS) == [True, True]
        assert contents(project) == expected
    assert step > 15
    assert told == {
        "opening request 17 was interrupted",
        "request 17 was opened before its command was interrupted: 2 records; its salt is "
        ".salts/17",
    }


def test_the_mending_of_an_opening_can_be_killed_too(tmp_path):
    """It is killed at each of its points, one after the other, and then comes to its end."""

    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requests_module, "append_entry", cut_off)
        with pytest.raises(KeyboardInterrupt):
            open_request(tmp_path, "17", TEXTS, date=DATE, **REASON)
    before = contents(tmp_path)

    with pytest.raises(InputError, match=r"^Opening request 17 was interrupted: `kedro request"):
        read_request(tmp_path, "17")
    step = 0
    while killed_at(step, tmp_path, partial(finish_openings, tmp_path)):
        step += 1

    assert "evidence/requests/17.json" in before
    assert contents(tmp_path) == [".salts/.gitignore"]
    open_request(tmp_path, "17", TEXTS, date=DATE, **REASON)


def test_of_two_requests_with_one_id_that_of_the_ledger_stays(project):
    """Its files came by git while the opening of another was interrupted."""
    begun = project / ".salts/.17.opening"
    begun.write_bytes(b"x" * 32)

    assert finish_openings(project) == [
        "the ledger has another request 17 than the one whose opening was interrupted"
    ]

    assert not begun.exists()
    assert are_records(project, "17", TEXTS) == [True, True]


def test_an_unknown_request_is_refused(project):
    with pytest.raises(InputError, match=r"^There is no request '18': `kedro request list`"):
        reported_request(project, "18")


@pytest.mark.parametrize("texts", [[], [""], ["a", " \n"]])
def test_a_request_without_a_text_is_refused_and_leaves_nothing(tmp_path, texts):
    with pytest.raises(InputError, match=r"^Request 1 has no text, or an empty one\.$"):
        open_request(tmp_path, "1", texts, date=DATE, **REASON)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["17", "GDPR-2026.11_a", "a" * 100])
def test_an_id_is_letters_digits_dots_and_dashes(name):
    assert check_id(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "..", ".", ".gitignore", "a..b", "../a", "a/b", "a\\b", "a\n", "a b", "ä", "a" * 101],
)
def test_an_id_that_could_lead_elsewhere_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="A request cannot be called"):
        open_request(tmp_path, name, TEXTS, date=DATE, **REASON)

    assert list(tmp_path.iterdir()) == []


@given(st.text())
def test_no_id_leaves_its_folder(name):
    try:
        check_id(name)
    except InputError:
        return
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert ".." not in name
    assert name[0] not in "._-"


def test_a_text_that_utf8_has_no_letters_for_is_a_record_too():
    """JSON can hold half of a surrogate pair."""
    one = hmac.new(b"salt", b"\xed\xa0\x80", hashlib.sha256).hexdigest()

    assert record_digests(b"salt", ["\ud800"]) == [one]


def kept_salt(project: Path, name: str) -> bytes:
    salt = new_salt(project, name)
    keep_salt(project, name)
    return salt


def test_a_salt_is_read_as_it_was_made_and_no_two_are_alike(tmp_path):
    one, other = kept_salt(tmp_path, "one"), kept_salt(tmp_path, "other")

    assert (read_salt(tmp_path, "one"), read_salt(tmp_path, "other")) == (one, other)
    assert len(one) == len(other) == 32
    assert one != other


def test_nobody_but_the_owner_reads_it(tmp_path):
    (tmp_path / ".salts").mkdir(mode=0o755)

    kept_salt(tmp_path, "one")

    assert stat.S_IMODE((tmp_path / ".salts").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / ".salts/one").stat().st_mode) == 0o600


def test_git_does_not_see_it(tmp_path):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / "seen").write_text("by git")

    kept_salt(tmp_path, "one")
    new_salt(tmp_path, "other")

    command = ["git", "status", "--porcelain", "--untracked-files=all"]
    told = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert told.stdout == "?? seen\n"


def test_a_salt_is_never_written_over(tmp_path):
    salt = kept_salt(tmp_path, "one")

    with pytest.raises(InputError, match=r"^\.salts/one exists: choose another id"):
        new_salt(tmp_path, "one")

    assert read_salt(tmp_path, "one") == salt


def test_a_salt_that_is_gone_is_said_to_be(tmp_path):
    with pytest.raises(InputError, match=r"^\.salts/one is missing: without its salt nobody"):
        read_salt(tmp_path, "one")


def test_a_salt_that_was_cut_short_is_none(tmp_path):
    kept_salt(tmp_path, "one")
    (tmp_path / ".salts/one").write_bytes(b"short")

    with pytest.raises(InputError, match=r"is not a salt: 5 bytes, not 32\.$"):
        read_salt(tmp_path, "one")


@pytest.mark.parametrize(
    ("key", "value"), [("records", 9), ("digest", "0" * 64), ("date", "2026-11-26T12:00:00+00:00")]
)
def test_the_last_entry_is_compared_with_its_request(project, key, value):
    """No later entry holds the digest of the last one."""
    path = project / "evidence/ledger.json"
    ledger = json.loads(path.read_text())
    ledger[-1][key] = value
    path.write_text(json.dumps(ledger))

    with pytest.raises(InputError, match=rf"{key} of request 17 is {re.escape(str(value))}"):
        read_request(project, "17")


def test_a_request_edited_together_with_its_digest_in_the_ledger_is_told_from_its_records(project):
    """Three records are claimed, in both files, and two digests are there."""
    request, ledger = project / "evidence/requests/17.json", project / "evidence/ledger.json"
    text = request.read_text().replace('"records": 2', '"records": 3')
    request.write_text(text)
    entries = json.loads(ledger.read_text())
    entries[-1] |= {"records": 3, "file": hashlib.sha256(text.encode()).hexdigest()}
    ledger.write_text(json.dumps(entries))

    with pytest.raises(InputError, match=r"17\.digests is missing or was changed"):
        read_request(project, "17")


@pytest.mark.parametrize("text", ["[]", "{}", "{", '{"date": "yesterday"}'])
def test_a_request_that_is_none_is_one_line(project, text):
    """Its digest in the ledger was edited with it."""
    (project / "evidence/requests/17.json").write_text(text)
    ledger = project / "evidence/ledger.json"
    entries = json.loads(ledger.read_text())
    entries[-1]["file"] = hashlib.sha256(text.encode()).hexdigest()
    ledger.write_text(json.dumps(entries))

    with pytest.raises(InputError, match=r"17\.json is not a valid request"):
        read_request(project, "17")


@pytest.mark.parametrize("bound", ["NaN", "2", '"0.3"', "null"])
def test_a_request_with_a_bound_that_is_no_share_is_none(project, bound):
    """Its digest in the ledger was edited with it; a comparison with NaN is never false enough."""
    path, ledger = project / "evidence/requests/17.json", project / "evidence/ledger.json"
    text = path.read_text().replace("{", f'{{"forget_at_most": {bound}, ', 1)
    path.write_text(text)
    entries = json.loads(ledger.read_text())
    entries[-1]["file"] = hashlib.sha256(text.encode()).hexdigest()
    ledger.write_text(json.dumps(entries))

    with pytest.raises(InputError, match=r"17\.json is not a valid request"):
        read_request(project, "17")


def test_a_record_taken_out_of_all_three_files_is_told_by_the_salt(project):
    """Digests, request and ledger agree with each other; the HMAC cannot be made without salt."""
    digests, request = (project / f"evidence/requests/17.{kind}" for kind in ("digests", "json"))
    lines = digests.read_text().splitlines(keepends=True)[0]
    digests.write_text(lines)
    content = json.loads(request.read_text())
    content |= {"records": 1, "digests_sha256": hashlib.sha256(lines.encode()).hexdigest()}
    request.write_text(json.dumps(content))
    ledger = project / "evidence/ledger.json"
    entries = json.loads(ledger.read_text())
    sha256 = hashlib.sha256(request.read_bytes()).hexdigest()
    entries[-1] |= {"records": 1, "file": sha256}
    ledger.write_text(json.dumps(entries))

    with pytest.raises(InputError, match="is not the salt of request 17"):
        reported_request(project, "17")
    (project / ".salts/17").unlink()
    assert reported_request(project, "17")["records"] == 1
