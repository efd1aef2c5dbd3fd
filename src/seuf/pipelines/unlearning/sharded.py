"""Unlearn in several processes that share the model, each with a GPU of its own.

`in_processes` starts them by torch's own `torchrun`; each runs `main` here, and from there what one
process runs, `nodes.unlearn_here`. The first of them writes what comes out.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from seuf.inputs import InputError
from seuf.moe.loading import LanguageModel, load_model
from seuf.moe.settings import ExternalModelSettings

GIVEN, MADE, PROBLEM = "given.pt", "made.pt", "problem.txt"


def in_processes(base: LanguageModel, given: dict[str, Any], number: int) -> Any:
    """Return what `unlearn_here` makes in processes that share the model.

    They load the model themselves; until they have ended this process's own leaves the GPUs.

    Args:
        base: The model.
        given: What else `unlearn_here` takes, by name.
        number: Of processes.

    Raises:
        InputError: If there are fewer GPUs, though some, or a process raises this error.
        RuntimeError: If a process ends otherwise.
    """
    import torch

    from seuf.moe.sharding import check_not_parallel

    check_not_parallel(base.model)
    if 0 < (gpus := torch.cuda.device_count()) < number:
        raise InputError(f"unlearning.sharded is {number}, and {gpus} GPUs are visible.")
    with TemporaryDirectory(prefix="seuf-") as name:
        folder = Path(name)
        deterministic = torch.are_deterministic_algorithms_enabled()
        source = _source_of(base, folder / "base_model")
        torch.save((source, base.commit, given, deterministic), folder / GIVEN)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={number}", "-m", __name__, name]
        environment = {**os.environ, "OMP_NUM_THREADS": str(given["unlearning"].threads)}
        with _off_the_gpus(base.model):
            code = subprocess.run(command, env=environment, check=False).returncode
        if (folder / PROBLEM).is_file():
            raise InputError((folder / PROBLEM).read_text(encoding="utf-8"))
        if code or not (folder / MADE).is_file():
            raise RuntimeError(f"A process that shares the model ended (exit code {code}).")
        return torch.load(folder / MADE, weights_only=False)


def main(folder: Path) -> None:
    """Be one of the processes: unlearn, and write what comes out if it is the first."""
    import torch
    import torch.distributed as dist

    from seuf.moe.sharding import agreed, rank, shard
    from seuf.pipelines.unlearning.nodes import unlearn_here

    source, commit, given, deterministic = torch.load(folder / GIVEN, weights_only=False)
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        loaded = load_model(source) if rank() == 0 else None
        model = shard(None if loaded is None else loaded.model, device)
        tokenizer: Any = agreed(None if loaded is None else loaded.tokenizer)
        del loaded
        made = unlearn_here(LanguageModel(model, tokenizer, source, commit), **given)
    except InputError as error:
        (folder / PROBLEM).write_text(str(error), encoding="utf-8")
        raise
    if rank() == 0:
        torch.save(made, folder / f"{MADE}.tmp")
        (folder / f"{MADE}.tmp").rename(folder / MADE)
    dist.barrier()
    dist.destroy_process_group()


def _source_of(base: LanguageModel, folder: Path) -> ExternalModelSettings:
    """Return from where a process loads the model, which it first takes to CPU memory."""
    if base.source is None:
        base.save(folder)
        return ExternalModelSettings(path=str(folder), device="cpu")
    in_memory = {"device": "cpu", "device_map": None, "compile": False}
    pinned = {"revision": base.commit} if base.commit else {}
    return base.source.model_copy(update={**in_memory, **pinned})


@contextmanager
def _off_the_gpus(model: Any) -> Iterator[None]:
    """Keep a model in CPU memory inside the context; after it it is where it was."""
    import torch

    tensors = [*model.parameters(), *model.buffers()]
    places = [(tensor, tensor.device) for tensor in tensors if tensor.is_cuda]
    for tensor, _ in places:
        tensor.data = tensor.data.cpu()
    if places:
        torch.cuda.empty_cache()
    try:
        yield
    finally:
        for tensor, device in places:
            tensor.data = tensor.data.to(device)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
