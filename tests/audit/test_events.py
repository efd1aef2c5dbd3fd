"""What is sent to those who collect lineage, and where."""

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from click.testing import CliRunner
from kedro.framework import project as _project  # noqa: F401 - prints a line when it is first imported

from seuf.audit.cli import audit
from seuf.audit.events import emit, finished_on, run_id, started_on
from seuf.inputs import InputError
from tests.audit.reports import (
    DELTA,
    DELTA_PATH,
    FORGET,
    FORGET_PATH,
    RETAIN,
    RETAIN_PATH,
    RUNS,
)


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    """No setting of the machine the tests run on gets in."""
    for name in ("OPENLINEAGE_API_KEY", "OPENLINEAGE_DISABLED", "OPENLINEAGE_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def collector():
    """A server that keeps what it is sent: its URL, what came, and the status it answers."""
    came, answer = [], [201]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            came.append((self.path, self.headers.get("Authorization"), json.loads(body)))
            self.send_response(answer[0])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", came, answer
    server.shutdown()
    server.server_close()


def events(path):
    """Return the events of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_run_starts_and_completes(tmp_path):
    """The second run began at 22:00:00 UTC and took 4.25 seconds."""
    sent = emit(RUNS, "sandbox", str(tmp_path / "events.jsonl"))

    made = events(tmp_path / "events.jsonl")
    assert sent == len(made) == 4
    assert [one["eventType"] for one in made] == ["START", "COMPLETE"] * 2
    assert [one["eventTime"] for one in made[2:]] == [
        "2026-11-25T22:00:00+00:00",
        "2026-11-25T22:00:04.250000+00:00",
    ]
    assert made[2]["job"] == {"facets": {}, "name": "unlearn@seuf_ga", "namespace": "sandbox"}
    assert made[2]["run"]["runId"] == made[3]["run"]["runId"] == run_id("sandbox", RUNS[1])


def test_data_sets_are_named_with_their_digest(tmp_path):
    emit(RUNS, "sandbox", str(tmp_path / "events.jsonl"))

    last = events(tmp_path / "events.jsonl")[-1]
    versions = {
        one["name"]: one["facets"]["version"]["datasetVersion"]
        for one in [*last["inputs"], *last["outputs"]]
    }
    assert versions == {
        FORGET_PATH: f"sha256:{FORGET}",
        RETAIN_PATH: f"sha256:{RETAIN}",
        DELTA_PATH: f"sha256:{DELTA}",
    }


def test_a_digest_of_dvc_is_said_to_be_md5(tmp_path):
    """A folder's has the ending that DVC gives it."""
    inputs = {"file": "1a" * 16, "folder": f"{'2b' * 16}.dir", "unknown": None}

    emit([RUNS[0] | {"inputs": inputs}], "sandbox", str(tmp_path / "events.jsonl"))

    sent = {one["name"]: one["facets"] for one in events(tmp_path / "events.jsonl")[0]["inputs"]}
    assert sent["file"]["version"]["datasetVersion"] == f"md5:{'1a' * 16}"
    assert sent["folder"]["version"]["datasetVersion"] == f"md5:{'2b' * 16}.dir"
    assert sent["unknown"] == {}


def test_of_confidential_files_no_digest_is_sent(tmp_path):
    emit(RUNS, "sandbox", str(tmp_path / "events.jsonl"), confidential=[FORGET_PATH])

    text = (tmp_path / "events.jsonl").read_text()
    assert FORGET_PATH in text
    assert FORGET not in text
    assert RETAIN in text


def test_the_same_runs_give_the_same_events(tmp_path):
    emit(RUNS, "sandbox", str(tmp_path / "one"))
    emit(RUNS, "sandbox", str(tmp_path / "two"))

    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_the_run_id_tells_studies_stages_and_times_apart():
    run = RUNS[0]
    others = [run | {"stage": "other"}, run | {"started": "2026-11-25T22:00:01+00:00"}]

    ids = {run_id("sandbox", run), run_id("tofu", run), *(run_id("sandbox", one) for one in others)}

    assert len(ids) == 4


def test_a_time_without_zone_is_utc():
    run = {"started": "2026-01-01T00:00:00", "seconds": 60}

    assert started_on(run).isoformat() == "2026-01-01T00:00:00+00:00"
    assert finished_on(run).isoformat() == "2026-01-01T00:01:00+00:00"


@pytest.mark.parametrize(
    ("path", "expected"), [("", "/api/v1/lineage"), ("/", "/api/v1/lineage"), ("/my/in?a=1",) * 2]
)
def test_events_go_to_a_url(collector, path, expected):
    url, came, _ = collector

    assert emit(RUNS, "sandbox", url + path) == 4

    assert [one[0] for one in came] == [expected] * 4
    assert [one[1] for one in came] == [None] * 4
    assert came[0][2]["producer"] == "urn:seuf:kedro-dvc"


def test_a_key_in_the_environment_goes_along(collector, monkeypatch):
    monkeypatch.setenv("OPENLINEAGE_API_KEY", "secret")
    url, came, _ = collector

    emit(RUNS[:1], "sandbox", url)

    assert {one[1] for one in came} == {"Bearer secret"}


def test_a_refusal_is_told_without_secrets(collector):
    url, _, answer = collector
    answer[0] = 403
    secret = url.replace("//", "//me:hidden@") + "/in?token=hidden"

    with pytest.raises(InputError, match=r"/in: it answered 403") as told:
        emit(RUNS, "sandbox", secret)

    assert "hidden" not in str(told.value)


def test_what_was_sent_is_printed_without_secrets(collector, monkeypatch):
    monkeypatch.setattr("kedro_dvc.project.load_study", lambda project, name: None)
    monkeypatch.setattr("seuf.audit.audited.confidential_paths", lambda study: set())
    monkeypatch.setattr("seuf.audit.events.recorded_runs", lambda project, name: RUNS)
    secret = collector[0].replace("//", "//me:hidden@") + "/in?token=hidden"

    result = CliRunner().invoke(audit, ["events", secret], catch_exceptions=False)

    assert result.output == f"4 events to {collector[0]}/in\n"


def test_a_collector_that_is_not_there_is_told():
    with pytest.raises(InputError, match=r"could not be sent to http://127.0.0.1:1: Connection"):
        emit(RUNS, "sandbox", "http://127.0.0.1:1")


def test_a_file_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(InputError, match=r"missing/events: No such file or directory"):
        emit(RUNS, "sandbox", str(tmp_path / "missing/events"))


@pytest.mark.parametrize("to", ["ftp://me:hidden@host/path", "http://"])
def test_other_addresses_are_refused(to):
    with pytest.raises(InputError, match=r"a file or an http\(s\) URL") as told:
        emit(RUNS, "sandbox", to)

    assert "hidden" not in str(told.value)


def test_where_lineage_is_switched_off_nothing_is_sent(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENLINEAGE_DISABLED", "true")

    assert emit(RUNS, "sandbox", str(tmp_path / "events")) == 0
    assert not (tmp_path / "events").exists()
