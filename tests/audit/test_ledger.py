"""The ledger tells which model serves which requests, and notices if it was edited."""

import json
import multiprocessing
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seuf.audit import ledger as ledger_module
from seuf.audit.ledger import (
    AGAIN,
    OPEN,
    REVOKED,
    SERVED,
    Chain,
    Link,
    appended,
    check_ledger,
    entry_digest,
    locked,
    read_ledger,
    served_by,
    state,
    write_entry,
)
from seuf.inputs import InputError
from tests.waiting import LONG

DATE = "2026-11-25T12:00:00+00:00"


def opened(request):
    return {
        "what": "opened",
        "request": request,
        "date": DATE,
        "records": 1,
        "digest": "",
        "file": "",
    }


def served(request, base, model, starts=False):
    made = {"study": "base", "method": "seuf_ga", "delta": "", "base": base, "model": model}
    about = {"request": request, "date": DATE, "starts": starts, "covered": True}
    return {"what": "served", **about, **made}


def revoked(request):
    return {"what": "revoked", "request": request, "date": DATE, "reason": "withdrawn"}


def ledger_of(*entries):
    """Return the ledger of entries, in this order."""
    ledger = []
    for entry in entries:
        ledger = appended(ledger, entry)
    return ledger


def three():
    """Return a ledger of b0 -a-> m1 -b-> m2 -c-> m3."""
    return ledger_of(
        *map(opened, "abc"),
        served("a", "b0", "m1", starts=True),
        served("b", "m1", "m2"),
        served("c", "m2", "m3"),
    )


def test_a_request_that_was_never_served_is_open():
    now = state(ledger_of(opened("a")))

    assert (now.status, now.chains, now.model_of("a")) == ({"a": OPEN}, (), None)


def test_each_model_of_a_chain_serves_one_request_more():
    now = state(three())

    assert now.status == {"a": SERVED, "b": SERVED, "c": SERVED}
    assert now.models == {"b0": (), "m1": ("a",), "m2": ("a", "b"), "m3": ("a", "b", "c")}
    assert now.chains == (Chain("b0", (Link("a", "m1"), Link("b", "m2"), Link("c", "m3"))),)
    assert [now.model_of(request) for request in "abc"] == ["m3", "m3", "m3"]


def test_the_last_one_revoked_the_model_before_it_serves_again():
    now = state(appended(three(), revoked("c")))

    assert now.status == {"a": SERVED, "b": SERVED, "c": REVOKED}
    assert now.models == {"b0": (), "m1": ("a",), "m2": ("a", "b")}
    assert now.chains[0].current == "m2"


def test_one_in_the_middle_revoked_the_later_ones_are_to_be_served_again():
    """The delta of c was trained on top of that of b, so a alone is served, by m1."""
    now = state(appended(three(), revoked("b")))

    assert now.status == {"a": SERVED, "b": REVOKED, "c": AGAIN}
    assert now.models == {"b0": (), "m1": ("a",)}
    assert now.chains[0].current == "m1"
    assert [now.model_of(request) for request in "abc"] == ["m1", None, None]


def test_the_first_one_revoked_the_base_is_current_and_serves_none():
    now = state(appended(three(), revoked("a")))

    assert now.status == {"a": REVOKED, "b": AGAIN, "c": AGAIN}
    assert (now.chains[0].current, now.chains[0].serves) == ("b0", ())


def test_a_delta_s_model_serves_the_requests_of_its_chain_until_it_is_given_up():
    """Here the delta of each request is named after it."""
    entries = [{**one, "delta": one["request"]} if "delta" in one else one for one in three()]
    ledger = ledger_of(*entries)

    assert [served_by(ledger, delta) for delta in "abcx"] == [("a",), ("a", "b"), tuple("abc"), ()]
    assert [served_by(appended(ledger, revoked("b")), delta) for delta in "ab"] == [("a",), ()]


def test_what_is_to_be_served_again_is_served_from_the_current_model():
    ledger = appended(three(), revoked("b"))

    with pytest.raises(InputError, match="made from model m2, which is not current"):
        appended(ledger, served("c", "m2", "m4"))
    now = state(appended(ledger, served("c", "m1", "m4")))

    assert now.status == {"a": SERVED, "b": REVOKED, "c": SERVED}
    assert now.models == {"b0": (), "m1": ("a",), "m4": ("a", "c")}


def test_what_is_to_be_served_again_can_be_revoked_instead():
    now = state(appended(appended(three(), revoked("b")), revoked("c")))

    assert now.status == {"a": SERVED, "b": REVOKED, "c": REVOKED}
    assert now.chains[0].current == "m1"


def test_an_open_request_can_be_withdrawn():
    assert state(ledger_of(opened("a"), revoked("a"))).status == {"a": REVOKED}


def test_another_base_model_has_a_chain_of_its_own():
    """A revocation in one leaves the other alone."""
    ledger = appended(three(), opened("d"))
    with pytest.raises(InputError, match=r"Current: m3 \(serves a, b, c\)"):
        appended(ledger, served("d", "x0", "x1"))

    now = state(ledger_of(*bare(ledger), served("d", "x0", "x1", starts=True), revoked("a")))

    assert [chain.current for chain in now.chains] == ["b0", "x1"]
    assert (now.model_of("d"), now.status["d"]) == ("x1", SERVED)


def test_what_is_entered_in_the_wrong_order_is_refused():
    """The chain began at m1, which a's entry would have made later."""
    ledger = ledger_of(*map(opened, "ab"), served("b", "m1", "m2", starts=True))

    for starts in (False, True):
        with pytest.raises(
            InputError, match=r"^Model m1 is in the ledger already and serves none:"
        ):
            appended(ledger, served("a", "b0", "m1", starts))


@pytest.mark.parametrize("base", ["b0", "m1", "m3"])
def test_a_model_of_the_ledger_starts_no_chain(base):
    """What it forgot before would not be told of."""
    with pytest.raises(InputError, match=f"Model {base} is in the ledger: no new chain"):
        appended(appended(three(), opened("d")), served("d", base, "m4", starts=True))


def test_a_model_that_was_given_up_starts_no_chain():
    ledger = appended(appended(three(), revoked("b")), opened("d"))

    with pytest.raises(InputError, match="Model m3 is in the ledger"):
        appended(ledger, served("d", "m3", "m4", starts=True))


@pytest.mark.parametrize("base", ["b0", "m1", "m2"])
def test_a_model_made_of_an_earlier_one_is_refused(base):
    """It would not serve the requests after that one."""
    with pytest.raises(InputError, match=f"made from model {base}, which is not current"):
        appended(appended(three(), opened("d")), served("d", base, "m4"))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (opened("a"), "Request a exists: choose another id"),
        (served("a", "m3", "m4"), "Request a is served already"),
        (served("z", "m3", "m4"), "There is no request 'z'; there are: a, b, c, d"),
        (served("d", "m3", "m3"), "The delta changes nothing in model m3: it serves no"),
        (served("d", "m3", "m2"), "Model m2 is in the ledger already and serves a, b:"),
        (served("d", "m3", "b0"), "Model b0 is in the ledger already and serves none"),
        (revoked("z"), "There is no request 'z'"),
    ],
)
def test_what_cannot_have_happened_is_refused(entry, message):
    ledger = appended(three(), opened("d"))

    with pytest.raises(InputError, match=f"^{message}"):
        appended(ledger, entry)


@pytest.mark.parametrize("entry", [served("b", "m1", "m4"), revoked("b")])
def test_a_revoked_request_stays_revoked(entry):
    with pytest.raises(InputError, match=r"^Request b was revoked: open another one\.$"):
        appended(appended(three(), revoked("b")), entry)


def test_each_entry_carries_the_sha256_of_the_one_before():
    r"""`printf '%s' '{"a":"\u00e9","b":null}' | sha256sum`."""
    ledger = ledger_of(opened("a"), revoked("a"))

    assert ledger[0]["previous"] is None
    sha256 = "a7dd58c317bd38f83b9084423fb91f8ea1534240fa2c2f1e21531bb6607a4299"
    assert entry_digest({"b": None, "a": "é"}) == sha256
    assert ledger[1]["previous"] == entry_digest(ledger[0])


@pytest.mark.parametrize("number", range(5))
def test_an_edited_entry_is_noticed(number):
    """The last one is vouched for by the commit alone."""
    ledger = three()
    ledger[number] = {**ledger[number], "date": "2020-01-01T00:00:00+00:00"}

    expected = rf"entry {number + 2} .* was not written after entry {number + 1} "
    with pytest.raises(InputError, match=expected):
        check_ledger(ledger)


@pytest.mark.parametrize("number", range(5))
def test_a_removed_entry_is_noticed(number):
    ledger = three()
    del ledger[number]

    with pytest.raises(InputError, match=f"entry {number + 1} .* was not written after"):
        check_ledger(ledger)


def test_entries_in_another_order_are_noticed():
    ledger = three()
    ledger[0], ledger[1] = ledger[1], ledger[0]

    with pytest.raises(InputError, match=r"entry 1 \(opened b\) was not written after the start"):
        check_ledger(ledger)


@pytest.mark.parametrize(
    "entry",
    [
        "text",
        {},
        {"what": "closed"},
        {**opened("a"), "previous": None, "more": 1},
        {**opened(["a"]), "previous": None},
        {**opened("a"), "previous": None, "records": "1"},
    ],
)
def test_what_is_no_entry_is_named(entry):
    with pytest.raises(InputError, match=r"entry 1 is not a valid entry\.$"):
        check_ledger([entry])


def test_a_forged_entry_that_cannot_have_happened_is_named():
    """Its own chain of digests is whole, as whoever forges it can see to."""
    ledger = three()
    forged = {**served("c", "b0", "m9"), "previous": ledger[-1]["previous"]}

    with pytest.raises(InputError, match="entry 6: The delta was made from model b0, which is not"):
        state([*ledger[:-1], forged])


def test_the_ledger_is_read_as_it_was_written(tmp_path):
    assert read_ledger(tmp_path) == []

    write_entry(tmp_path, opened("a"))
    now = write_entry(tmp_path, revoked("a"))

    assert read_ledger(tmp_path) == ledger_of(opened("a"), revoked("a"))
    assert now.status == {"a": REVOKED}
    assert [path.name for path in (tmp_path / "evidence").iterdir()] == ["ledger.json"]


def test_an_entry_that_is_refused_is_not_written(tmp_path):
    write_entry(tmp_path, opened("a"))
    before = (tmp_path / "evidence/ledger.json").read_bytes()

    with pytest.raises(InputError):
        write_entry(tmp_path, opened("a"))
    with pytest.raises(InputError):
        write_entry(tmp_path, {"what": "opened", "request": "b"})

    assert (tmp_path / "evidence/ledger.json").read_bytes() == before


@pytest.mark.parametrize("text", ["{}", "[", '["a"]', "[" * 100_000])
def test_another_file_is_no_ledger(tmp_path, text):
    (tmp_path / "evidence").mkdir()
    (tmp_path / "evidence/ledger.json").write_text(text)

    with pytest.raises(InputError, match=r"^evidence/ledger\.json"):
        read_ledger(tmp_path)


STEPS = st.one_of(
    st.builds(opened, st.sampled_from("abcd")),
    st.builds(revoked, st.sampled_from("abcd")),
    st.builds(
        served,
        st.sampled_from("abcd"),
        st.sampled_from(["b0", "b1", "m1", "m2", "m3", "m4"]),
        st.sampled_from(["m1", "m2", "m3", "m4"]),
        st.booleans(),
    ),
    # of what is current, which chance alone would seldom hit
    st.builds(lambda r, n: ("next", r, n), st.sampled_from("abcd"), st.integers(0, 99)),
)


@given(st.lists(STEPS, max_size=25))
def test_the_current_model_serves_exactly_the_requests_on_its_chain_that_are_not_revoked(steps):
    """Held against the bare entries: walk from a model back over what it was made of."""
    ledger = ledger_of(*map(opened, "abcd"))
    for step in steps:
        ledger = tried(ledger, step)
    now = state(json.loads(json.dumps(ledger)))
    gone = {entry["request"] for entry in ledger if entry["what"] == "revoked"}
    made = [entry for entry in ledger if entry["what"] == "served"]

    for chain in now.chains:
        walked = path_back(made, chain.current)
        assert chain.serves == walked
        assert not gone & set(walked)
    for request, status in now.status.items():
        last = [entry for entry in made if entry["request"] == request][-1:]
        sound = [entry for entry in last if not gone & set(path_to(made, entry))]
        expected = SERVED if sound else AGAIN if last else OPEN
        assert status == (REVOKED if request in gone else expected)
        assert (now.model_of(request) is not None) == (status == SERVED)


def tried(ledger, step):
    """Return the ledger with a step more, if it is one that can be."""
    if isinstance(step, tuple):
        current = [chain.current for chain in state(ledger).chains] or ["b0"]
        _, request, number = step
        base = current[number % len(current)]
        step = served(request, base, f"n{len(ledger)}", starts=not state(ledger).chains)
    try:
        return appended(ledger, step)
    except InputError:
        return ledger


def path_back(made, model):
    """Return the requests on the way to a model, the first one first."""
    for number in reversed(range(len(made))):
        if made[number]["model"] == model:
            return path_to(made[: number + 1], made[number])
    return ()


def path_to(made, entry):
    """Return the requests on the way to what an entry tells of."""
    before = made[: made.index(entry)]
    return (*path_back(before, entry["base"]), entry["request"])


def bare(ledger):
    """Return the entries without what ties them together."""
    return [{k: v for k, v in entry.items() if k != "previous"} for entry in ledger]


def write_many(project, writer, start):
    """Open five requests of one writer, as soon as all writers are there."""
    start.wait()
    for number in range(5):
        write_entry(project, opened(f"{writer}-{number}"))


def test_no_entry_of_writers_in_several_processes_is_lost(tmp_path, monkeypatch):
    """4 writers of 5 entries each make a ledger of 20, each entry on top of the one before.

    None is told that the others keep the lock for too long, as they may on a slow disk.
    """
    monkeypatch.setattr(ledger_module, "PATIENCE", LONG)
    context = multiprocessing.get_context("fork")
    start = context.Barrier(4)
    writers = [context.Process(target=write_many, args=(tmp_path, one, start)) for one in "abcd"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    assert [writer.exitcode for writer in writers] == [0] * 4
    ledger = read_ledger(tmp_path)
    assert len({entry["request"] for entry in ledger}) == len(ledger) == 20
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["evidence", "ledger.json"]


def test_a_writer_that_comes_between_reading_and_writing_waits(tmp_path, monkeypatch):
    """The second writer starts when the first has read; half a second is enough to finish."""
    monkeypatch.setattr(ledger_module, "PATIENCE", LONG)
    write_entry(tmp_path, opened("a"))
    second = threading.Thread(target=write_entry, args=(tmp_path, opened("c")))
    read = ledger_module.read_ledger

    def read_while_another_writes(project):
        ledger = read(project)
        if threading.current_thread() is threading.main_thread():
            second.start()
            second.join(timeout=0.5)
        return ledger

    monkeypatch.setattr(ledger_module, "read_ledger", read_while_another_writes)
    write_entry(tmp_path, opened("b"))
    second.join()

    assert [entry["request"] for entry in read(tmp_path)] == ["a", "b", "c"]


def test_a_writer_that_keeps_the_lock_is_told_after_a_while(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger_module, "PATIENCE", 0.1)

    with (
        locked(tmp_path),
        pytest.raises(InputError, match=r"^\.ledger\.lock exists: another .*r\.$"),
    ):
        write_entry(tmp_path, opened("a"))

    assert not (tmp_path / "evidence/ledger.json").exists()


def test_a_writer_that_was_killed_keeps_nobody_waiting(tmp_path, monkeypatch):
    """The system has given its lock back; what it has begun to write is removed."""
    monkeypatch.setattr(ledger_module, "PATIENCE", 0.1)
    (tmp_path / "evidence").mkdir()
    for left in (".ledger.lock", "evidence/ledger.json.4711.tmp"):
        (tmp_path / left).touch()

    write_entry(tmp_path, opened("a"))

    assert sorted(path.name for path in tmp_path.rglob("*")) == ["evidence", "ledger.json"]


def test_where_the_system_has_no_such_lock_the_file_is_one(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger_module, "PATIENCE", 0.1)
    monkeypatch.setattr(ledger_module, "fcntl", None)
    write_entry(tmp_path, opened("a"))
    (tmp_path / ".ledger.lock").touch()

    with pytest.raises(InputError, match=r"If none does, one was killed: remove it\.$"):
        write_entry(tmp_path, opened("b"))
