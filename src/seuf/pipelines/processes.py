"""A node in several processes, each with a GPU of its own: they share the model, or what is scored.

`in_processes` starts them by torch's own `torchrun`; each runs `main` here, and from there the node
itself. The first of them writes what comes out. What differs between them is in
`seuf.moe.sharding`.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from seuf.inputs import InputError
from seuf.moe.loading import LanguageModel, load_model
from seuf.moe.settings import ExternalModelSettings

GIVEN, MADE, PROBLEM = "given.pt", "made.pt", "problem.txt"
PATIENCE = timedelta(days=1)  # for each other; of a process that has died torchrun tells


def in_processes(
    node: Callable[..., Any], base: LanguageModel, given: dict[str, Any], number: int, asked_by: str
) -> Any:
    """Return what a node makes in several processes.

    They load the model themselves; until they have ended this process's own leaves the GPUs.

    Args:
        node: A function of a module; the model is its first argument.
        base: The model.
        given: What else it takes, by name.
        number: Of processes.
        asked_by: The setting that asks for them: of `unlearning.sharded` each holds a part of the
            model, of others each holds all of it.

    Raises:
        InputError: If there are fewer GPUs, though some, the model lies on several devices, or a
            process raises this error.
        RuntimeError: If a process ends otherwise.
    """
    import torch

    from seuf.moe.sharding import check_not_parallel

    check_not_parallel(base.model)
    is_divided = asked_by == "unlearning.sharded"
    if not is_divided and base.source is not None and base.source.device_map is not None:
        raise InputError(
            f"{asked_by} is {number}: each process holds the whole model on one GPU. Set it to 1, "
            "or base_model.device_map to null."
        )
    if 0 < (gpus := torch.cuda.device_count()) < number:
        raise InputError(
            f"{asked_by} is {number}, and {gpus} GPUs are visible: a run with -j gives a stage as "
            "many as `resources` in the parameters say."
        )
    with TemporaryDirectory(prefix="seuf-") as name:
        folder = Path(name)
        deterministic = torch.are_deterministic_algorithms_enabled()
        source = _source_of(base, folder / "base_model", is_divided)
        task = node, source, base.commit, given, deterministic, torch.get_num_threads(), is_divided
        torch.save(task, folder / GIVEN)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={number}", "-m", __name__, name]
        environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
        with _off_the_gpus(base.model):
            code = subprocess.run(command, env=environment, check=False).returncode
        if (folder / PROBLEM).is_file():
            raise InputError((folder / PROBLEM).read_text(encoding="utf-8"))
        if code or not (folder / MADE).is_file():
            raise RuntimeError(f"One of {number} processes ended (exit code {code}): {asked_by}.")
        return torch.load(folder / MADE, weights_only=False)


def main(folder: Path) -> None:
    """Be one of the processes: run the node, and write what comes out if it is the first."""
    import torch
    import torch.distributed as dist

    from seuf.moe.sharding import be_replica, rank

    node, source, commit, given, deterministic, threads, is_divided = torch.load(
        folder / GIVEN, weights_only=False
    )
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if is_divided:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    else:
        dist.init_process_group("gloo", timeout=PATIENCE)
        be_replica()
    if rank():  # the first tells
        logging.disable(logging.WARNING)
        sys.stderr.isatty = lambda: False  # type: ignore[method-assign] # so tqdm shows none
    try:
        made = node(_model_of(source, commit, device, is_divided), **given)
    except InputError as error:
        (folder / PROBLEM).write_text(str(error), encoding="utf-8")
        raise
    if rank() == 0:
        torch.save(made, folder / f"{MADE}.tmp")
        (folder / f"{MADE}.tmp").rename(folder / MADE)
    dist.barrier()
    dist.destroy_process_group()


def _model_of(
    source: ExternalModelSettings, commit: str | None, device: Any, is_divided: bool
) -> LanguageModel:
    """Return the model of this process: all of it, or the part that it holds."""
    from seuf.moe.sharding import agreed, rank, shard

    if not is_divided:
        loaded = load_model(source.model_copy(update={"device": str(device)}))
        return LanguageModel(loaded.model, loaded.tokenizer, source, commit)
    first = load_model(source) if rank() == 0 else None
    model = shard(None if first is None else first.model, device)
    tokenizer: Any = agreed(None if first is None else first.tokenizer)
    return LanguageModel(model, tokenizer, source, commit)


def _source_of(base: LanguageModel, folder: Path, is_divided: bool) -> ExternalModelSettings:
    """Return from where a process loads the model; what it divides it takes to CPU memory first."""
    if base.source is None:
        base.save(folder)
        return ExternalModelSettings(path=str(folder), device="cpu")
    in_memory = {"device": "cpu", "device_map": None, "compile": False} if is_divided else {}
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
