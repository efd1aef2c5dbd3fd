"""A delta puts a change on a model, and takes it off without a trace."""

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from seuf.errors import InputError
from seuf.moe.architectures import moe_layers
from seuf.moe.deltas import Delta, changed_share, model_digest, parameter_rows
from tests.tiny import bits, changed_names, tiny_model

WRITE = """
import sys
from pathlib import Path
from tests.moe.test_deltas import some_delta
from tests.tiny import tiny_model
some_delta(tiny_model("qwen2_moe")).save(Path(sys.argv[1]))
"""


def fused_and_router(model: nn.Module) -> tuple[str, str]:
    """Return the names of a fused expert tensor and of a router's weight."""
    layer = moe_layers(model)[-1]
    wanted = layer.experts.get_parameter("down_proj"), layer.router.get_parameter("weight")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return names[id(wanted[0])], names[id(wanted[1])]


def some_delta(model: nn.Module) -> Delta:
    """Return a delta of one expert's row and one router, all ones and twos."""
    fused, router = fused_and_router(model)
    tensors = {
        router: torch.full_like(model.get_parameter(router).detach(), 2),
        f"{fused}[1]": torch.ones_like(model.get_parameter(fused)[1].detach()),
    }
    return Delta(tensors, model_digest(model), about={"seed": 3, "experts": [[1, 1]]})


def test_a_saved_delta_is_loaded_as_it_was(model, tmp_path):
    delta = some_delta(model)

    delta.save(tmp_path / "delta.safetensors")
    loaded = Delta.load(tmp_path / "delta.safetensors")

    assert (loaded.base, loaded.about) == (delta.base, delta.about)
    assert loaded.tensors.keys() == delta.tensors.keys()
    assert all(torch.equal(loaded.tensors[name], t) for name, t in delta.tensors.items())


def test_inside_the_context_exactly_the_named_rows_are_changed(model):
    fused, router = fused_and_router(model)
    before = bits(model)

    with some_delta(model).applied_to(model):
        assert changed_names(model, before) == {fused, router}
        assert (model.get_parameter(fused)[1] == 1).all()
        assert torch.equal(model.get_parameter(fused)[0], before[fused][0])
        assert (model.get_parameter(router) == 2).all()


def test_after_the_context_the_base_is_bit_identical(model, tmp_path):
    before, digest = bits(model), model_digest(model)
    some_delta(model).save(tmp_path / "delta.safetensors")

    with Delta.load(tmp_path / "delta.safetensors").applied_to(model):
        pass

    assert changed_names(model, before) == set()
    assert model_digest(model) == digest


def test_after_an_exception_the_base_is_bit_identical(model):
    before = bits(model)

    with pytest.raises(ZeroDivisionError), some_delta(model).applied_to(model):
        _ = 1 / 0

    assert changed_names(model, before) == set()


def test_a_bfloat16_model_takes_and_gives_back_a_delta():
    model = tiny_model("qwen2_moe").bfloat16()
    before = bits(model)

    with some_delta(model).applied_to(model):
        assert changed_names(model, before) != set()

    assert changed_names(model, before) == set()


def test_the_same_delta_gives_the_same_bytes_whatever_the_order_of_its_tensors(tmp_path):
    delta = some_delta(tiny_model("qwen2_moe"))
    turned = replace(delta, tensors=dict(reversed(delta.tensors.items())))

    delta.save(tmp_path / "one")
    turned.save(tmp_path / "other")

    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_another_process_writes_the_same_bytes(tmp_path):
    root = Path(__file__).parents[2]
    some_delta(tiny_model("qwen2_moe")).save(tmp_path / "here")

    command = [sys.executable, "-c", f"import seuf\n{WRITE}", str(tmp_path / "there")]
    subprocess.run(command, check=True, cwd=root)

    here, there = (hashlib.sha256((tmp_path / n).read_bytes()) for n in ("here", "there"))
    assert here.hexdigest() == there.hexdigest()


def test_another_base_is_refused(model):
    delta, other = some_delta(model), tiny_model(model.config.model_type, seed=1)

    with (
        pytest.raises(InputError, match=f"belongs to base model {delta.base[:12]}"),
        delta.applied_to(other),
    ):
        pass


def test_one_bit_makes_another_base(model):
    digest = model_digest(model)

    with torch.no_grad():
        parameter = next(model.parameters())
        parameter.view(-1)[0] = torch.nextafter(parameter.view(-1)[0], torch.tensor(10.0))

    assert model_digest(model) != digest


def test_the_same_values_in_another_type_are_another_base():
    """Zeros have the same bytes in float16 and bfloat16; the digest reads the type too."""
    half, brain = nn.Linear(2, 2).half(), nn.Linear(2, 2).bfloat16()
    for layer in (half, brain):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)

    assert model_digest(half) != model_digest(brain)


def test_a_safetensors_file_without_our_header_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.ones(2)}, path)

    with pytest.raises(InputError, match="is not a SEUF delta"):
        Delta.load(path)


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "delta.safetensors"
    path.write_text("not a tensor in sight")

    with pytest.raises(InputError, match="is not a safetensors file"):
        Delta.load(path)


def test_nothing_is_left_if_writing_fails(tmp_path):
    """A folder stands where the file should go, so the last step, the renaming, fails."""
    (tmp_path / "delta" / "in_the_way").mkdir(parents=True)

    with pytest.raises(OSError, match="delta"):
        some_delta(tiny_model("qwen2_moe")).save(tmp_path / "delta")

    assert [path.name for path in tmp_path.iterdir()] == ["delta"]


def test_an_empty_delta_is_a_delta(tmp_path):
    model = tiny_model("qwen2_moe")
    Delta({}, model_digest(model)).save(tmp_path / "delta")

    loaded = Delta.load(tmp_path / "delta")

    assert loaded.tensors == {}
    with loaded.applied_to(model):
        pass


def test_parameter_rows_share_the_models_storage(model):
    fused, _ = fused_and_router(model)

    parameter_rows(model, f"{fused}[2]").fill_(5)

    assert (model.get_parameter(fused)[2] == 5).all()


def test_changed_share_counts_the_changed_tensors():
    """A Linear(3, 4) has 12 + 4 parameters; row 1 of its weight has 3: 3/16."""
    layer = nn.Linear(3, 4)

    assert changed_share(layer, Delta({"weight[1]": torch.zeros(3)}, base="")) == 3 / 16
