"""Run a node in several processes, each with a GPU of its own.

They share the model or the samples to score. `in_processes` starts them with `torchrun`; each runs
`main`, which calls the node. The first process writes the result. What differs between processes is
in `seuf.moe.sharding`.
"""

from __future__ import annotations

import inspect
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ParamSpec, TypeVar

from seuf.inputs import InputError
from seuf.moe.loading import LanguageModel, load_model
from seuf.moe.settings import ExternalModelSettings

TASK, RESULT, PROBLEM = "task.pt", "result.pt", "problem.txt"
PATIENCE = timedelta(days=1)  # replicas wait for each other; torchrun notices one that died

P = ParamSpec("P")
R = TypeVar("R")


def may_use_processes(
    requested: Callable[..., tuple[str, int]],
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that runs a node in several processes where a setting asks for them.

    The node is a function of a module, and its first argument is the model. In each of the
    processes it runs as it is.

    Args:
        requested: Given the other arguments by name, returns the setting that asks for processes
            and how many it asks for.
    """

    def decorate(node: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(node)

        @wraps(node)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            model, *names = bound.arguments
            arguments = {name: bound.arguments[name] for name in names}
            setting, number = requested(**arguments)
            if number > 1:
                from seuf.moe.sharding import processes

                if processes() == 1:
                    base: Any = bound.arguments[model]
                    result: R = in_processes(run, base, arguments, number, setting)
                    return result
            return node(*args, **kwargs)

        return run

    return decorate


def in_processes(
    node: Callable[..., Any],
    base: LanguageModel,
    arguments: dict[str, Any],
    number: int,
    setting: str,
) -> Any:
    """Return the result of a node that runs in several processes.

    They load the model themselves; this process's own stays off the GPUs until they have ended.

    Args:
        node: A function of a module; the model is its first argument.
        base: The model.
        arguments: The other arguments, by name.
        number: Number of processes.
        setting: The setting that asks for them. With `unlearning.sharded` each process holds a
            part of the model, with any other the whole model.

    Raises:
        InputError: If there are GPUs, but fewer than processes, the model lies on several devices,
            or a process raises this error.
        RuntimeError: If a process fails otherwise.
    """
    import torch

    from seuf.moe.sharding import check_not_parallel

    check_not_parallel(base.model)
    is_divided = setting == "unlearning.sharded"
    if not is_divided and base.source is not None and base.source.device_map is not None:
        raise InputError(
            f"{setting} is {number}: each process holds the whole model on one GPU. Set it to 1, "
            "or base_model.device_map to null."
        )
    if 0 < (gpus := torch.cuda.device_count()) < number:
        raise InputError(
            f"{setting} is {number}, and {gpus} GPUs are visible: a run with -j gives a stage as "
            "many as `resources` in the parameters say."
        )
    with TemporaryDirectory(prefix="seuf-") as name:
        folder = Path(name)
        deterministic = torch.are_deterministic_algorithms_enabled()
        source = _source_of(base, folder / "base_model", is_divided)
        threads = torch.get_num_threads()
        task = node, source, base.commit, arguments, deterministic, threads, is_divided
        torch.save(task, folder / TASK)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={number}", "-m", __name__, name]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        with _off_the_gpus(base.model):
            code = subprocess.run(command, env=environment, check=False).returncode
        if (folder / PROBLEM).is_file():
            raise InputError((folder / PROBLEM).read_text(encoding="utf-8"))
        if code or not (folder / RESULT).is_file():
            raise RuntimeError(f"One of {number} processes ended (exit code {code}): {setting}.")
        return torch.load(folder / RESULT, weights_only=False)


def main(folder: Path) -> None:
    """Run the node as one of the processes; the first of them writes the result."""
    import torch
    import torch.distributed as dist

    from seuf.moe.sharding import be_replica, rank

    node, source, commit, arguments, deterministic, threads, is_divided = torch.load(
        folder / TASK, weights_only=False
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
    if rank():  # the first alone logs and shows bars
        logging.disable(logging.WARNING)
        sys.stderr.isatty = lambda: False  # type: ignore[method-assign] # so tqdm shows none
    try:
        result = node(_model_of(source, commit, device, is_divided), **arguments)
    except InputError as error:
        (folder / PROBLEM).write_text(str(error), encoding="utf-8")
        raise
    if rank() == 0:
        torch.save(result, folder / f"{RESULT}.tmp")
        (folder / f"{RESULT}.tmp").rename(folder / RESULT)
    dist.barrier()
    dist.destroy_process_group()


def _model_of(
    source: ExternalModelSettings, commit: str | None, device: Any, is_divided: bool
) -> LanguageModel:
    """Return this process's model: the whole, or its part of one that is divided."""
    from seuf.moe.sharding import agreed, rank, shard

    if not is_divided:
        loaded = load_model(source.model_copy(update={"device": str(device)}))
        return LanguageModel(loaded.model, loaded.tokenizer, source, commit)
    first = load_model(source) if rank() == 0 else None
    model = shard(None if first is None else first.model, device)
    tokenizer: Any = agreed(None if first is None else first.tokenizer)
    return LanguageModel(model, tokenizer, source, commit)


def _source_of(base: LanguageModel, folder: Path, is_divided: bool) -> ExternalModelSettings:
    """Return where the processes load the model from; one to be divided goes to CPU memory."""
    if base.source is None:
        base.save(folder)
        return ExternalModelSettings(path=str(folder), device="cpu")
    in_memory = {"device": "cpu", "device_map": None, "compile": False} if is_divided else {}
    pinned = {"revision": base.commit} if base.commit else {}
    return base.source.model_copy(update={**in_memory, **pinned})


@contextmanager
def _off_the_gpus(model: Any) -> Iterator[None]:
    """Keep a model in CPU memory inside the context, and put it back after it."""
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
