"""Worker processes that share tasks, each with its own state, one or several on a GPU.

Worker i sees only GPU i mod n of the n that this process sees, as `cuda:0`, as if the machine had
no other. The result of a task does not depend on its worker.
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from seuf.inputs import InputError
from seuf.moe.backoff import is_out_of_memory

VISIBLE = "CUDA_VISIBLE_DEVICES"
FEWER = "let fewer processes share the work (SEUF_WORKERS)"


class Worker(NamedTuple):
    """A process, and this end of the pipe to it."""

    process: BaseProcess
    pipe: Connection


class Failure(NamedTuple):
    """A worker's report of a task that failed: one clear line, or else a traceback."""

    text: str
    is_clear: bool


def visible_gpus() -> list[str]:
    """Return the GPUs that this process sees, as `CUDA_VISIBLE_DEVICES` names them."""
    named = os.environ.get(VISIBLE)
    if named is None:
        return [str(index) for index in range(torch.cuda.device_count())]
    return [name.strip() for name in named.split(",")][: torch.cuda.device_count()]


@contextmanager
def workers(
    begin: Callable[[bytes], Callable[[Any], Any]],
    sent: bytes,
    number: int,
    gpus: Sequence[str] = (),
) -> Iterator[list[Worker]]:
    """Start worker processes, and end them with the context.

    Each has torch's switch for deterministic implementations as it is here, one thread, and no
    progress bars.

    Args:
        begin: Called in each process before its first task, with `sent`; returns the function that
            computes tasks. It is pickled by name, so it must be at the top level of its module.
        sent: The same bytes for all processes. They may hold no tensor of a GPU, which another
            process may not see.
        number: Number of processes.
        gpus: GPUs that the processes take in turn, see `visible_gpus`; empty to leave them all.
    """
    context, deterministic = get_context("spawn"), torch.are_deterministic_algorithms_enabled()
    started: list[Worker] = []
    with ExitStack() as stack:
        # a file, which all read at once: gigabytes through pipes would go one process at a time
        file = Path(stack.enter_context(tempfile.TemporaryDirectory()), "sent")
        file.write_bytes(sent)
        for index in range(number):
            here, there = context.Pipe()
            process = context.Process(target=_work, args=(there, begin, deterministic))
            # set before the process imports CUDA or anything that asks for it
            with _environment(VISIBLE, gpus[index % len(gpus)] if gpus else None):
                process.start()
            there.close()  # or this process would not notice that the worker ended
            started.append(Worker(process, here))
            stack.callback(_end, started[-1])
        for worker in started:  # only now, so that they start at the same time
            try:
                worker.pipe.send(file)
            except OSError:
                raise InputError(f"{_death(worker)} before its first task: {FEWER}.") from None
        yield started


def shared(
    processes: Sequence[Worker],
    tasks: Sequence[Any],
    what: str,
    name_of: Callable[[Any], str] = str,
) -> list[Any]:
    """Return the results of tasks in their order; an idle worker takes the next task.

    Args:
        processes: The workers, see `workers`.
        tasks: The tasks; they are pickled.
        what: What the tasks are, for the progress bar.
        name_of: Returns the name of a task, for errors.

    Raises:
        InputError: If a worker dies, memory runs out, or a task raises this error: with its name.
        RuntimeError: If a task raises another error, with its traceback.
    """
    waiting, results = deque(range(len(tasks))), dict[int, Any]()
    idle, running = deque(processes), dict[Connection, tuple[Worker, int]]()
    with tqdm(total=len(tasks), desc=what, disable=None) as bar:
        while waiting or running:
            while idle and waiting:
                worker, index = idle.popleft(), waiting.popleft()
                running[worker.pipe] = worker, index
                try:
                    worker.pipe.send(tasks[index])
                except OSError:  # it has ended, and `recv` below raises
                    continue
            ready = wait(list(running))
            for pipe in [pipe for pipe in running if pipe in ready]:
                worker, index = running.pop(pipe)
                try:
                    result = pipe.recv()
                except (EOFError, OSError):
                    raise InputError(
                        f"{name_of(tasks[index])}: {_death(worker)}; if memory ran out, {FEWER}."
                    ) from None
                if isinstance(result, Failure):
                    error = InputError if result.is_clear else RuntimeError
                    raise error(f"{name_of(tasks[index])}: {result.text}")
                results[index] = result
                idle.append(worker)
                bar.update()
    return [results[index] for index in range(len(tasks))]


def _work(pipe: Connection, begin: Callable[[bytes], Any], deterministic: bool) -> None:
    """Compute the tasks that come through a pipe, until its other end is closed."""
    sys.stderr.isatty = lambda: False  # type: ignore[method-assign] # for tqdm
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    compute: Callable[[Any], Any] | None = None
    file: Path = pipe.recv()
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        try:
            if compute is None:
                compute = begin(file.read_bytes())
            pipe.send(compute(task))
        except InputError as error:
            pipe.send(Failure(str(error), is_clear=True))
        except Exception as error:
            is_memory = isinstance(error, RuntimeError) and is_out_of_memory(error)
            line = f"memory ran out ({str(error).splitlines()[0]}): {FEWER}"
            pipe.send(Failure(line if is_memory else traceback.format_exc(), is_clear=is_memory))


def _death(worker: Worker) -> str:
    """Return what is known of a worker that died."""
    worker.process.join(5)
    return f"its process died (exit code {worker.process.exitcode})"


def _end(worker: Worker) -> None:
    """End a worker. An idle one ends by itself once its pipe is closed."""
    worker.pipe.close()
    worker.process.join(1)
    if worker.process.is_alive():
        worker.process.terminate()
        worker.process.join()


@contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    """Set an environment variable inside the context, unless the value is None."""
    before = os.environ.get(name)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before
