"""An exported model on the hub: what is pushed, and one line for each way in which nothing is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from seuf.inputs import InputError
from seuf.publishing import Destination, check_destination, push
from tests.local_hub import COMMIT, TOKEN, Hub, running_hub

NAME = "me/without"
TO = Destination(NAME)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[Hub]:
    """A hub on which we may write."""
    with running_hub(tmp_path / "cache", monkeypatch) as running:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield running


@pytest.fixture
def exported(tmp_path, language_model) -> Path:
    """A model in several files with its card, beside what a folder may also hold."""
    folder = tmp_path / "exported"
    language_model.model.save_pretrained(folder, max_shard_size="60KB")
    language_model.tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# A card\n")
    (folder / "training_args.bin").write_bytes(b"secret")
    (folder / "logs").mkdir()
    (folder / "logs/run.txt").write_text("secret")
    (folder / "modelling.py").write_text("secret = 1")
    return folder


def test_a_folder_becomes_one_commit_of_a_private_repository(hub, exported):
    check_destination(TO)
    address, left_out = push(exported, TO, "seuf_ga of the study mine")

    there = hub.pushed[NAME, "main"]
    assert hub.private == {NAME: True}
    assert (hub.commits, address.rpartition("/")[2]) == (["seuf_ga of the study mine"], COMMIT)
    assert left_out == ["logs/run.txt", "modelling.py", "training_args.bin"]
    assert {"README.md", "config.json", "tokenizer.json", "model.safetensors.index.json"} <= {
        *there
    }
    assert sum(name.endswith(".safetensors") for name in there) > 1
    assert there == {name: (exported / name).read_bytes() for name in there}
    assert not {*left_out} & {*there}


def test_a_repository_is_public_and_a_branch_made_if_that_is_said(hub, exported):
    push(exported, Destination(NAME, public=True, revision="v2"), "a message")

    assert hub.private == {NAME: False}
    assert "README.md" in hub.pushed[NAME, "v2"]
    assert hub.pushed[NAME, "main"] == {}


def test_files_of_the_same_name_are_replaced_where_that_is_said(hub, exported):
    push(exported, TO, "first")
    (exported / "README.md").write_text("# Another card\n")

    check_destination(TO._replace(exist_ok=True))
    push(exported, TO._replace(exist_ok=True), "second")

    assert hub.pushed[NAME, "main"]["README.md"] == b"# Another card\n"
    assert hub.commits == ["first", "second"]


def refusal(to: Destination = TO) -> str:
    """Return the line that says why a destination is none."""
    with pytest.raises(InputError) as raised:
        check_destination(to)
    line = str(raised.value)
    assert "\n" not in line
    return line


def test_a_repository_that_exists_is_left_alone(hub):
    hub.private[NAME] = True

    assert refusal() == (
        "me/without exists on the hub: say --exist-ok to replace files of the same name."
    )


@pytest.mark.parametrize(("private", "is_"), [(True, "private"), (False, "public")])
def test_who_may_read_an_existing_repository_must_be_said_as_it_is(hub, private, is_):
    hub.private[NAME] = private

    line = refusal(Destination(NAME, public=private, exist_ok=True))

    assert line.startswith(f"me/without is {is_} on the hub: say --{is_}, or ")


def test_without_a_token_nothing_is_asked(hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")

    assert refusal().startswith("There is no token for the hub: log in with `hf auth login`, or")


def test_where_the_hub_is_switched_off_nothing_is_asked(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    assert refusal() == "HF_HUB_OFFLINE is set, so nothing is pushed to me/without."


@pytest.mark.parametrize("name", ["without", "me/my/model", "me/what is this"])
def test_a_name_that_the_hub_cannot_have_is_told(hub, name):
    assert refusal(Destination(name)) == f"{name!r} is not a repository on the hub: owner/name."


def test_a_hub_that_cannot_be_reached_is_told_with_its_address(hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")

    line = refusal()

    assert line.startswith("The hub cannot be reached at http://127.0.0.1:9 (")
    assert line.endswith(": repeat the command once it can.")


@pytest.mark.parametrize(
    ("status", "begins"),
    [
        (403, "The hub refuses your token for me/without (403): it needs write access; "),
        (418, "The hub answers 418 about me/without: "),
    ],
)
def test_what_the_hub_answers_is_one_line(hub, exported, status, begins):
    hub.answer = status

    with pytest.raises(InputError) as raised:
        push(exported, TO, "a message")

    assert str(raised.value).startswith(begins)
    assert "\n" not in str(raised.value)


def test_a_token_that_the_hub_does_not_know_is_told(hub, exported, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_another")

    with pytest.raises(InputError, match=r"refuses your token for me/without \(401\)"):
        push(exported, TO, "a message")


@pytest.mark.parametrize(
    ("name", "what"), [("config.json", "the base model's, and export again"), ("README.md", "it")]
)
def test_a_file_that_names_a_folder_of_this_machine_is_not_pushed(hub, exported, name, what):
    text = (exported / name).read_text()
    (exported / name).write_text(text.replace("{", f'{{"_name_or_path": "{Path.home()}/x",', 1))
    if name == "README.md":
        (exported / name).write_text(f"Made in {Path.home()}/models/mine.")

    with pytest.raises(InputError, match=f"{name} names .*, a folder on this machine: edit {what}"):
        push(exported, TO, "a message")

    assert hub.private == {}
