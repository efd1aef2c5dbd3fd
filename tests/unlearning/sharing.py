"""What each process does in the tests of models that processes share: `torchrun -m` runs it.

    torchrun --nproc-per-node 2 -m tests.unlearning.sharing DEVICE FILE MODEL_TYPE/ROW...

checks gradients of the whole model against one process's, unlearns by each row, and lets the first
process write logs and deltas to the file. One process does the same with `taken`.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
import torch.distributed as dist

from seuf.moe import sharding
from seuf.moe.loading import LanguageModel
from seuf.unlearning.settings import Method
from tests.tiny import tiny_batch, tiny_language_model, tiny_model
from tests.unlearning.runs import method, run

ROWS: dict[str, Method] = {
    "ga": method("everything", "ga"),
    "gdiff": method("everything", "gdiff"),
    "npo": method("everything", "npo"),
    "rmu": method("everything", "rmu", layers=[0, 1], steering_norms=3.0),
    "upper layer": method("everything", "gdiff", layers=[1]),
    "routers": method("everything", "gdiff", only="routers", router_null_space=0.5),
    "kl": method("everything", "gdiff", retain_loss="kl"),
    "trace": method("everything", "gdiff", retain_loss="trace"),
    "micro-batches": method("everything", "gdiff", batch_size=4, micro_batch_size=1),
    "lora": method("lora", "gdiff", rank=2),
}


def model_of(model_type: str, **changes: Any) -> Any:
    """Return the model that one process has, or all share."""
    bfloat16 = model_type.endswith("+bfloat16")
    tied = model_type.endswith("+tied")
    model = tiny_model(model_type.split("+")[0], tie_word_embeddings=tied)
    return model.to(torch.bfloat16) if bfloat16 else model


def taken(model: Any, row: str, **settings: Any) -> tuple[list[Any], dict[str, Any], float, str]:
    """Return a row's log, what it changed, the share that it trained, and the base's digest."""
    base = LanguageModel(model, tiny_language_model().tokenizer)
    done = run(base, ROWS[row], experts=[], **settings)
    return done.log, done.delta.tensors, done.trained_share, done.delta.base


def check_gradients(model: Any, one: Any) -> None:
    """Compare the gradients of shared parameters, added up, with those of one process's model."""
    ids, own = tiny_batch().input_ids, sharding.own_rows(6)
    for of, rows in ((one, ids), (model, ids[own.start : own.stop])):
        of(input_ids=rows, use_cache=False).logits.log_softmax(-1).square().sum().backward()
    shared = dict(model.named_parameters())
    for name, parameter in one.named_parameters():
        shard = sharding.Shard(shared[name])
        assert torch.equal(shard.whole(shard.view), parameter.detach()), name
        gradient = shard.gradient()
        assert (gradient is None) == (parameter.grad is None), name
        if gradient is not None:
            difference = (shard.whole(gradient) - parameter.grad).norm()
            assert difference <= 1e-5 * parameter.grad.norm() + 1e-9, name
        shared[name].grad = None


def main(kind: str, file: str, cases: list[str]) -> None:
    """Unlearn by each case in processes that share the model."""
    torch.set_num_threads(1)
    device = torch.device(kind, int(os.environ["LOCAL_RANK"]) if kind == "cuda" else None)
    if kind == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo")
    results, kept = {}, []
    for case in cases:
        model_type, row = case.split("/")
        first = model_of(model_type) if sharding.rank() == 0 else None
        model = sharding.shard(first, device)
        if "+" not in model_type and kind == "cpu":
            check_gradients(model, model_of(model_type))
        results[case] = taken(model, row, sharded=2)
    if sharding.rank() == 0:
        for log, changed, share, digest in results.values():
            on_cpu = {key: tensor.cpu() for key, tensor in changed.items()}
            kept.append((log, on_cpu, share, digest))
        torch.save(dict(zip(results, kept, strict=True)), file)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
