"""Processes that share tasks, each with what it computes on, on a GPU of its own or several a GPU.

Worker i sees GPU i mod n of the n that this process sees, and no other: it is `cuda:0` there, as it
would be of a machine with that GPU alone. What a task gives does not depend on its worker.
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
    """A process, and the end of the pipe to it."""

    process: BaseProcess
    pipe: Connection


class Failure(NamedTuple):
    """What a worker says of a task that failed: one line that is enough, or a whole traceback."""

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
    """Give processes inside the context; after it they have ended.

    Torch's switch for deterministic implementations is set there as it is here, and each process
    has one thread and shows no bars.

    Args:
        begin: Called first in each process, with what is sent to it; returns what computes tasks.
            It is found by its name.
        sent: The same for all. Tensors of a GPU may not be among it: it is not seen there.
        number: Of processes.
        gpus: What they see in turn, see `visible_gpus`; none changes nothing.
    """
    context, deterministic = get_context("spawn"), torch.are_deterministic_algorithms_enabled()
    started: list[Worker] = []
    with ExitStack() as stack:
        # in a file, which all read side by side: through pipes gigabytes would go one by one
        file = Path(stack.enter_context(tempfile.TemporaryDirectory()), "sent")
        file.write_bytes(sent)
        for index in range(number):
            here, there = context.Pipe()
            process = context.Process(target=_work, args=(there, begin, deterministic))
            # before CUDA, or anything that asks for it, is imported there
            with _environment(VISIBLE, gpus[index % len(gpus)] if gpus else None):
                process.start()
            there.close()  # or its end would not be noticed
            started.append(Worker(process, here))
            stack.callback(_end, started[-1])
        for worker in started:  # they begin side by side
            try:
                worker.pipe.send(file)
            except OSError:
                raise InputError(f"{_death(worker)} before its first task: {FEWER}.") from None
        yield started


def shared(
    among: Sequence[Worker],
    tasks: Sequence[Any],
    what: str,
    name_of: Callable[[Any], str] = str,
) -> list[Any]:
    """Return what workers make of tasks, in their order; each takes the next when it is idle.

    Args:
        among: See `workers`.
        tasks: To be pickled.
        what: They are, for a bar.
        name_of: Names a task that fails.

    Raises:
        InputError: If a worker dies, memory runs out, or a task raises this error: with its name.
        RuntimeError: If a task raises another error, with its traceback.
    """
    waiting, results = deque(range(len(tasks))), dict[int, Any]()
    idle, running = deque(among), dict[Connection, tuple[Worker, int]]()
    with tqdm(total=len(tasks), desc=what, disable=None) as bar:
        while waiting or running:
            while idle and waiting:
                worker, place = idle.popleft(), waiting.popleft()
                running[worker.pipe] = worker, place
                try:
                    worker.pipe.send(tasks[place])
                except OSError:  # it has ended: `recv` below tells
                    continue
            ready = wait(list(running))
            for pipe in [pipe for pipe in running if pipe in ready]:
                worker, place = running.pop(pipe)
                try:
                    result = pipe.recv()
                except (EOFError, OSError):
                    raise InputError(
                        f"{name_of(tasks[place])}: {_death(worker)}; if memory ran out, {FEWER}."
                    ) from None
                if isinstance(result, Failure):
                    error = InputError if result.is_clear else RuntimeError
                    raise error(f"{name_of(tasks[place])}: {result.text}")
                results[place] = result
                idle.append(worker)
                bar.update()
    return [results[place] for place in range(len(tasks))]


def _work(pipe: Connection, begin: Callable[[bytes], Any], deterministic: bool) -> None:
    """Compute the tasks that come through a pipe, until its other end is closed."""
    sys.stderr.isatty = lambda: False  # type: ignore[method-assign] # so tqdm shows none
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
            short = isinstance(error, RuntimeError) and is_out_of_memory(error)
            line = f"memory ran out ({str(error).splitlines()[0]}): {FEWER}"
            pipe.send(Failure(line if short else traceback.format_exc(), is_clear=short))


def _death(worker: Worker) -> str:
    worker.process.join(5)
    return f"its process died (exit code {worker.process.exitcode})"


def _end(worker: Worker) -> None:
    """End a worker: it stops by itself when it is idle."""
    worker.pipe.close()
    worker.process.join(1)
    if worker.process.is_alive():
        worker.process.terminate()
        worker.process.join()


@contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    """Set an environment variable inside the context; with None leave it as it is."""
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
