"""What a study keeps of its base model, and the checkpoint and card that are exported from it."""

from __future__ import annotations

import hashlib
import json
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from kedro_dvc import project
from kedro_dvc.evidence import environment_path, record_path
from kedro_dvc.files import write_text
from kedro_dvc.hashing import sha256s
from kedro_dvc.records import machine
from seuf.audit.ledger import write_entry
from seuf.audit.requests import derived_models, enter_derived
from seuf.cli import cli
from seuf.datasets.checkpoint import CheckpointDataset
from seuf.inputs import InputError
from seuf.method_export import _base, check_exported, export_method
from seuf.moe.deltas import Delta, export
from seuf.moe.digests import model_digest
from seuf.moe.loading import load_model
from seuf.moe.settings import ExternalModelSettings
from seuf.reporting.comparison import comparison_table
from tests.local_hub import COMMIT, TOKEN, cached, running_hub
from tests.reporting.examples import numbers
from tests.tiny import bits, changed_names, some_change

NAME = "org/tiny-moe"


@pytest.fixture
def checkpoint(tmp_path, monkeypatch, language_model) -> Path:
    """A checkpoint in several files, which is in the hub's cache; there is no network."""
    folder = tmp_path / "checkpoint"
    language_model.model.save_pretrained(folder, max_shard_size="60KB")
    language_model.tokenizer.save_pretrained(folder)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    cached(folder, tmp_path / "cache", NAME)
    return folder


def referred(folder: Path, path: str, **changes: str) -> CheckpointDataset:
    """Return a study's base model, of which it has kept the reference."""
    data_set = CheckpointDataset(str(folder))
    data_set.save(load_model(ExternalModelSettings(path=path, device="cpu", **changes)))
    return data_set


def test_a_reference_to_the_hub_names_the_commit_and_is_read_at_it(checkpoint, tmp_path):
    data_set = referred(tmp_path / "base", NAME)
    (tmp_path / "cache/models--org--tiny-moe/refs/main").write_text("0" * 40)  # it moves on

    told = json.loads((tmp_path / "base/reference.json").read_text())
    loaded = data_set.load()

    assert (told["commit"], told["source"]["revision"]) == (COMMIT, None)
    assert (loaded.commit, loaded.source.revision) == (COMMIT, COMMIT)
    assert told["digest"] == model_digest(loaded.model)


def test_a_reference_to_a_folder_says_what_it_always_said(checkpoint, tmp_path):
    referred(tmp_path / "base", str(checkpoint))

    told = json.loads((tmp_path / "base/reference.json").read_text())
    assert sorted(told) == ["digest", "source"]
    assert sorted(told["source"]) == [
        "compile",
        "device",
        "device_map",
        "dtype",
        "max_memory",
        "offload_folder",
        "path",
        "revision",
        "source",
    ]


@pytest.mark.parametrize("of_hub", [True, False])
def test_the_base_model_is_exported_from_where_it_lies(
    checkpoint, tmp_path, language_model, of_hub
):
    path = NAME if of_hub else str(checkpoint)
    base = referred(tmp_path / "base", path).load()
    delta = Delta.of(base.model, some_change(base.model), model_digest(base.model))

    about, folder = _base(tmp_path / "base", {"source": "external", "path": path})
    export(folder, delta, tmp_path / "exported")

    exported = load_model(ExternalModelSettings(path=str(tmp_path / "exported"), device="cpu"))
    assert about.name == (NAME if of_hub else "checkpoint")
    assert (about.on_hub, about.commit) == (of_hub, COMMIT if of_hub else None)
    assert changed_names(exported.model, bits(language_model.model)) != set()
    with delta.applied_to(base.model):
        assert changed_names(exported.model, bits(base.model)) == set()


def test_a_base_model_that_was_trained_here_lies_where_it_was_saved(tmp_path, language_model):
    CheckpointDataset(str(tmp_path / "base_model")).save(language_model)

    about, folder = _base(tmp_path / "base_model", {"source": "pretrain"})

    assert (about.source, about.on_hub, folder) == ("pretrain", False, tmp_path / "base_model")


def test_a_base_model_that_was_made_of_another_names_it_and_its_licence(checkpoint, tmp_path):
    (checkpoint / "README.md").write_text("---\nlicense: apache-2.0\ntags: [x]\n---\nA card.\n")
    (tmp_path / "base").mkdir()

    about, folder = _base(tmp_path / "base", {"source": "upcycle", "path": str(checkpoint)})

    assert folder == tmp_path / "base"
    assert about.name == "checkpoint"
    assert about.licence == {"license": "apache-2.0"}
    assert str(tmp_path) not in str(about)


@pytest.mark.parametrize("path", ["/gone/dense", "./gone/dense", "a/b/dense"])
def test_a_folder_that_is_gone_is_named_without_its_path_and_has_no_licence(tmp_path, path):
    """The working directory has a card too, which is not asked."""
    about, _ = _base(tmp_path, {"source": "finetune", "path": path})

    assert (about.name, about.on_hub, about.licence) == ("dense", False, {})


@pytest.fixture
def study(tmp_path, language_model) -> Any:
    """What of a study the export reads, after a run in which its one method changed something."""
    made = tmp_path / "made"
    made.mkdir()
    CheckpointDataset(str(made / "base_model")).save(language_model)
    model = language_model.model
    delta = Delta.of(model, some_change(model), model_digest(model))
    delta.about["experts"] = [[1, 1]]
    delta.save(made / "seuf_ga.delta")
    rows = {"untouched": numbers(1.0, 1.0, 0.0), "seuf_ga": numbers(0.5, 1.0, 0.1)}
    comparison_table(rows).to_csv(made / "comparison", index=False)
    for name, lines in (("forget_set", 2), ("retain_set", 3)):
        (made / name).write_text("{}\n" * lines)
    methods = {"seuf_ga": {"scope": "experts", "selection": "affinity", "objective": "ga"}}
    parameters = {"methods": methods, "base_model": {"source": "pretrain"}}
    node = SimpleNamespace(name="methods.seuf_ga.unlearn", outputs=["seuf_ga.delta"])
    return SimpleNamespace(
        name="mine",
        project=tmp_path / "made",
        pipelines={"__default__": SimpleNamespace(nodes=[node])},
        config={"parameters": parameters, "globals": {"study": "mine"}},
        dataset=lambda name: {"filepath": str(made / name)},
    )


def test_a_method_is_exported_after_its_forget_set_is_erased(study, tmp_path):
    """Only the card asked for it: how many texts there were."""
    Path(study.dataset("forget_set")["filepath"]).unlink()

    export_method(study, "seuf_ga", tmp_path / "exported")

    card = (tmp_path / "exported/README.md").read_text()
    assert "what\ntexts that are erased since hold and to keep what 3 others do" in card


def test_a_method_is_exported_with_its_card(study, tmp_path):
    export_method(study, "seuf_ga", tmp_path / "exported")

    card = (tmp_path / "exported/README.md").read_text()
    load_model(ExternalModelSettings(path=str(tmp_path / "exported"), device="cpu"))
    assert "what\n2 texts hold and to keep what 3 others do" in card
    assert "| untouched |" in card
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exported", "made"]


def test_a_folder_of_yours_beside_it_is_left_alone(study, tmp_path):
    mine = tmp_path / "exported.part"
    mine.mkdir()
    (mine / "thesis.txt").write_text("the only copy")

    export_method(study, "seuf_ga", tmp_path / "exported")

    assert (mine / "thesis.txt").read_text() == "the only copy"


def test_an_export_that_fails_leaves_nothing_behind(study, tmp_path):
    (tmp_path / "made/base_model/model.safetensors").unlink()

    with pytest.raises((InputError, FileNotFoundError)):
        export_method(study, "seuf_ga", tmp_path / "exported")

    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_an_exported_folder_has_the_rights_of_any_other(study, tmp_path):
    (tmp_path / "any").mkdir()

    export_method(study, "seuf_ga", tmp_path / "exported")

    assert (tmp_path / "exported").stat().st_mode == (tmp_path / "any").stat().st_mode


def served(study: Any, *requests: str) -> str:
    """Write the ledger and the run's record that belong to the delta; return its digest."""
    (path,) = [Path(study.dataset("seuf_ga.delta")["filepath"])]
    digest = sha256s([path])[path]
    for name in requests:
        opened = {"records": 1, "digest": "d", "file": "f", "date": "today"}
        write_entry(study.project, {"what": "opened", "request": name, **opened})
    entry = {"what": "served", "date": "today", "study": "mine", "method": "seuf_ga"}
    models = {"delta": digest, "base": "b", "model": "m", "starts": True, "covered": True}
    write_entry(study.project, {**entry, **models, "request": requests[0]})
    run = {"node": "methods.seuf_ga.unlearn", "outputs": {"delta": digest}, "commit": "fade"}
    environment = json.dumps(machine())
    name = hashlib.sha256(environment.encode()).hexdigest()[:32]
    write_text(environment_path(study.project, name), environment)
    record = {**run, "environment": name, "clean": True}
    record |= {"started": "2026-11-25T12:00:00+00:00", "seconds": 1}
    write_text(record_path(study.project, "mine", run["node"]), json.dumps(record))
    return digest


def test_the_card_tells_what_the_model_serves_and_what_made_it(study, tmp_path):
    digest = served(study, "17", "18")

    export_method(study, "seuf_ga", tmp_path / "exported")

    card = (tmp_path / "exported/README.md").read_text()
    assert "| requests served | 17 |" in card
    assert f"| delta, SHA-256 of the file | `{digest}` |" in card
    assert "| code, commit | `fade` |" in card
    assert "| experts, layer:expert | 1:1 |" in card


def test_the_ledger_names_what_was_exported_of_a_model_that_serves(study, tmp_path):
    """By folder and digest, once; the certificate of the request lists it."""
    folder = tmp_path / "exported"
    before = export_method(study, "seuf_ga", tmp_path / "early")
    served(study, "17")

    request = export_method(study, "seuf_ga", folder)

    (entry,) = derived_models(study.project, "17")
    assert (before, request) == (None, "17")
    assert (entry["name"], entry["how"]) == ("exported", "export")
    assert entry["sha256"] == sha256s([folder])[folder]
    assert enter_derived(study.project, entry, folder, "export") == entry
    assert len(derived_models(study.project, "17")) == 1


def test_the_card_names_nothing_of_this_machine(study, tmp_path):
    served(study, "17")

    export_method(study, "seuf_ga", tmp_path / "exported")

    card = (tmp_path / "exported/README.md").read_text()
    for secret in (str(tmp_path), str(Path.home()), socket.gethostname()):
        assert secret not in card


def test_what_was_exported_passes_as_the_method_s_model(study, tmp_path):
    folder = tmp_path / "exported"
    export_method(study, "seuf_ga", folder)
    card = folder / "README.md"
    card.write_text(card.read_text() + "\nWhat I have to say of it.\n")

    check_exported(study, "seuf_ga", folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "README.md").unlink(), "lacks the scores of seuf_ga"),
        (lambda folder: (folder / "README.md").write_text("# A"), "lacks the scores of seuf_ga"),
        (lambda folder: (folder / "x.py").write_text(""), "'x.py' could hold code"),
        (lambda folder: (folder / "notes.txt").write_text("x"), "'notes.txt' is not in the base"),
        (lambda folder: write_other_weights(folder), "is not the model of seuf_ga: "),
    ],
)
def test_another_folder_does_not_pass_as_the_method_s_model(study, tmp_path, spoil, message):
    folder = tmp_path / "exported"
    export_method(study, "seuf_ga", folder)
    spoil(folder)

    with pytest.raises(InputError, match=message):
        check_exported(study, "seuf_ga", folder)


def write_other_weights(folder: Path) -> None:
    """Change one element of the embeddings."""
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"][0, 0] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_method_that_was_not_compared_has_no_scores_to_be_published_with(study, tmp_path):
    path = tmp_path / "made/comparison"
    table = pd.read_csv(path)
    table[table["method"] != "seuf_ga"].to_csv(path, index=False)
    export_method(study, "seuf_ga", tmp_path / "exported")

    with pytest.raises(InputError, match="lacks the scores of seuf_ga"):
        check_exported(study, "seuf_ga", tmp_path / "exported")


def exporting(study: Any, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    """Run `kedro export` of the study's one method."""
    monkeypatch.setattr(project, "load_study", lambda *_: study)
    return CliRunner().invoke(cli, ["export", "seuf_ga", *arguments])


def test_a_model_is_exported_and_pushed_then_pushed_again_with_an_edited_card(
    study, tmp_path, monkeypatch
):
    folder, name = tmp_path / "exported", "me/without"
    with running_hub(tmp_path / "cache", monkeypatch) as hub:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        first = exporting(study, monkeypatch, str(folder), "--push", name)
        card = (folder / "README.md").read_text()
        (folder / "README.md").write_text(f"{card}\nMore.\n")
        refused = exporting(study, monkeypatch, str(folder), "--push", name)
        second = exporting(study, monkeypatch, str(folder), "--push", name, "--exist-ok")

        assert first.output == (
            f"wrote {folder}\npushed {hub.url}/{name}/commit/{COMMIT} (private)\n"
        )
        assert hub.pushed[name, "main"]["README.md"] == f"{card}\nMore.\n".encode()
    assert (refused.exit_code, second.exit_code) == (1, 0)
    assert refused.output.startswith("error: me/without exists on the hub: say --exist-ok ")


def test_nothing_is_exported_where_it_could_not_be_pushed(study, tmp_path, monkeypatch):
    with running_hub(tmp_path / "cache", monkeypatch):
        ended = exporting(study, monkeypatch, str(tmp_path / "exported"), "--push", "me/without")

    assert ended.output.startswith("error: There is no token for the hub: ")
    assert not (tmp_path / "exported").exists()


@pytest.mark.parametrize("option", [["--public"], ["--exist-ok"], ["--revision", "v2"]])
def test_options_of_a_push_without_one_are_refused(study, tmp_path, monkeypatch, option):
    ended = exporting(study, monkeypatch, str(tmp_path / "exported"), *option)

    assert ended.output == "error: --public, --revision and --exist-ok need --push.\n"
