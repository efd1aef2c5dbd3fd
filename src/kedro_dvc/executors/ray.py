"""Stages as tasks of a Ray cluster, which sends each to a node that has what it needs.

A task starts a process on its node that runs the stage, as on one machine. One that dies is begun
again up to twice, on another node if one has what it needs. All nodes see the project's folder, or
what a stage reads is copied to them (`copies`).
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import kedro_dvc
from kedro_dvc.dependencies import commit_of
from kedro_dvc.evidence import EVIDENCE
from kedro_dvc.executors.copies import (
    Copied,
    Parcel,
    check_remotes,
    receive,
    records_there,
    remotes,
    remove_outputs,
    send,
    snapshot,
    written,
)
from kedro_dvc.executors.jobs import Ended, Job, StoppedError
from kedro_dvc.executors.process import run_here
from kedro_dvc.executors.sent import DiedError, SentJobs, Task
from kedro_dvc.files import WorkflowError
from kedro_dvc.records import take_record
from kedro_dvc.resources import GIGABYTE

ANSWER = 5.0  # seconds that an address has to answer
PROBE = 60.0  # seconds that the nodes have to say whether they see the project's folder
TOKEN = "it asks for a token: export RAY_AUTH_MODE=token, with ~/.ray/auth_token as on its head"
NODE = "ray.io/node-id"  # a label that Ray gives each node
PER_CORE = 4  # stages in flight by default: enough that no node waits for the driver


def _run(project: str, job: Job, parcel: Parcel | None) -> Iterator[Any]:
    """Run a stage on this node; yield the node, what the job tells, and the files that it sends.

    With a parcel this happens in the snapshot that Ray has unpacked here, not in the project's
    folder.
    """
    import ray

    context = ray.get_runtime_context()
    yield context.get_node_id()
    gpus = tuple(map(str, context.get_accelerator_ids().get("GPU", [])))
    if parcel is None:
        yield run_here(Path(project), job, gpus)
        return
    root, stores = Path.cwd(), remotes(Path.cwd())
    before = records_there(root)
    remove_outputs(root, parcel.outputs)
    receive(root, parcel.inputs, stores)
    ended = run_here(root, job, gpus)
    yield ended
    yield [] if ended.errors else written(root, parcel.outputs, before, stores)


def _sees(project: str, token: str) -> bool:
    """Return whether this node sees the driver's folder."""
    return Path(project, token).is_file()


class RayTasks(SentJobs):
    """Runs jobs as tasks of a Ray cluster.

    Args:
        project: The project's root, which is also the working directory.
        jobs: How many are sent at once, at most; 0 for a number that the cluster's cores give.
        address: The cluster's, as `ray.init` takes it; None for the one that runs on this machine,
            or a new one of this machine alone.
        copies: Copy what stages read and write, and the code, to and from the nodes.
        dirty: Copy code that is not committed, too.

    Raises:
        WorkflowError: If no cluster answers there, or what is to be copied cannot be.
    """

    def __init__(
        self,
        project: Path,
        jobs: int = 0,
        address: str | None = None,
        copies: bool = False,
        dirty: bool = False,
    ) -> None:
        self._project = project.resolve()
        self.copies, self._commit = copies, commit_of(project)
        self._remotes: dict[str, str | None] = {}  # of outputs of all stages
        environment: dict[str, Any] = {"py_modules": [str(Path(kedro_dvc.__file__).parent)]}
        _check_answers(address)
        self._folder = tempfile.TemporaryDirectory()
        if copies:
            self._stores = remotes(project)
            path, self._there = snapshot(project, Path(self._folder.name), dirty)
            environment["working_dir"] = str(path)
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "error")  # or it repeats what is said here
        import ray  # an extra

        self._ray, self._errors = ray, ray.exceptions
        self._run = ray.remote(num_returns="streaming", max_retries=0)(_run)
        self._sees = ray.remote(num_cpus=0, max_retries=0)(_sees)
        try:
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level="ERROR",
                include_dashboard=None if address else False,
                runtime_env=environment,
            )
        except (ConnectionError, RuntimeError, ValueError, self._errors.RayError) as error:
            where = address or "this machine"
            wants_token = "Auth" in f"{error!r} {error.__cause__!r}"
            problem = TOKEN if wants_token else _line(error)
            raise WorkflowError(f"no Ray cluster at {where}: {problem}") from error
        cores = max(int(ray.cluster_resources().get("CPU", 1)), 1)
        super().__init__(jobs or PER_CORE * cores)
        self._has_gpus = bool(ray.cluster_resources().get("GPU"))

    def check(self, jobs: Sequence[Job]) -> None:
        """Raise a `WorkflowError` if no node has what a job asks for, or files cannot reach it."""
        nodes = self._nodes()
        for job in jobs:
            if not self._fitting(job, nodes):
                asked = _told(self._demands(job))
                there = "; ".join(
                    f"{n['NodeManagerAddress']}: {_told(n['Resources'])}" for n in nodes
                )
                raise WorkflowError(f"{job.stage} asks for {asked}; no node has it ({there}).")
        if self.copies:
            self._remotes = {path: one for job in jobs for path, one in job.outputs.items()}
            check_remotes(dict.fromkeys([None, *self._remotes.values()]), self._stores)
        else:
            self._check_folder(nodes)

    def _check_folder(self, nodes: list[dict[str, Any]]) -> None:
        """Raise if a node does not see the project's folder."""
        token = self._project / f".dvc/tmp/kedro_dvc/{os.getpid()}.seen"
        token.parent.mkdir(parents=True, exist_ok=True)
        token.write_text("")
        try:
            seen = {
                node["NodeManagerAddress"]: self._sees.options(
                    label_selector={NODE: node["NodeID"]}
                ).remote(str(self._project), str(token))
                for node in nodes
            }
            self._ray.wait(list(seen.values()), num_returns=len(seen), timeout=PROBE)
            blind = [address for address, sees in seen.items() if not self._answer(sees)]
        finally:
            token.unlink()
        if blind:
            raise WorkflowError(
                f"{', '.join(blind)} of the cluster does not see {self._project}: share the "
                "folder, or copy with --copy"
            )

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _answer(self, sees: Any) -> bool:
        """Return what a node has answered; False if it has not, in the time it had."""
        try:
            return bool(self._ray.get(sees, timeout=0))
        except self._errors.RayError:
            return False

    def _demands(self, job: Job) -> dict[str, float]:
        """Return what Ray is asked for; a stage that says nothing of cores takes one."""
        needs = job.resources
        memory = needs.memory_gb * GIGABYTE
        return {"CPU": needs.cpu or 1, "GPU": needs.gpus(self._has_gpus), "memory": memory}

    def _fitting(self, job: Job, nodes: list[dict[str, Any]]) -> list[str]:
        """Return the nodes that have what a job asks for, if they had nothing else to do."""
        demands = self._demands(job)
        return [
            node["NodeID"]
            for node in nodes
            if all(node["Resources"].get(key, 0) >= number for key, number in demands.items())
        ]

    def _parcel(self, job: Job) -> Parcel | None:
        """Return what a job takes along, after what goes through a remote is there."""
        if not self.copies:
            return None
        inputs = {path: md5 for path, md5 in job.inputs.items() if self._there.get(path) != md5}
        return Parcel(send(self._project, inputs, self._remotes, self._stores), job.outputs)

    def _send(self, task: Task) -> None:
        """Send a job, if it can be to a node where it was not tried yet."""
        demands = self._demands(task.job)
        others = set(self._fitting(task.job, self._nodes())) - set(task.tried)
        elsewhere = {NODE: f"!in({','.join(task.tried)})"} if others and task.tried else None
        task.sent = self._run.options(
            name=task.job.stage,
            num_cpus=demands["CPU"],
            num_gpus=demands["GPU"],
            memory=demands["memory"] or None,
            label_selector=elsewhere,
        ).remote(str(self._project), task.job, task.parcel)

    def _wait(self, task: Task) -> Ended:
        try:
            task.tried.append(self._ray.get(next(task.sent)))
            ended: Ended = self._ray.get(next(task.sent))
            if task.parcel is not None:
                self._take(self._ray.get(next(task.sent)))
            return ended
        except self._errors.TaskCancelledError:
            raise StoppedError(f"{task.job.stage} was stopped") from None
        except (self._errors.RayError, StopIteration) as error:
            raise DiedError(_line(error)) from None

    def _cancel(self, task: Task) -> None:
        self._ray.cancel(task.sent, force=True)

    def _take(self, files: list[Copied]) -> None:
        """Write what a stage has written elsewhere, and its record."""
        records = [one for one in files if one.path.startswith(f"{EVIDENCE}/")]
        receive(self._project, [one for one in files if one not in records], self._stores)
        for one in records:
            assert one.data is not None
            take_record(self._project, one.path, one.data.decode(), self._commit)

    def close(self) -> None:
        """Leave the cluster."""
        self._folder.cleanup()
        self._ray.shutdown()


def _told(resources: Mapping[str, float]) -> str:
    cpu, gpu, memory = (resources.get(key, 0) for key in ("CPU", "GPU", "memory"))
    return f"CPU {cpu:g}, GPU {gpu:g}, {memory / GIGABYTE:.0f} GB"


def _line(error: BaseException) -> str:
    """Return an error in one line; of one in a task, what it was there."""
    cause = getattr(error, "cause", None) or error  # of a `RayTaskError`
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[0] if lines else type(cause).__name__


def _check_answers(address: str | None) -> None:
    """Raise if nobody answers at an address; Ray itself would try for a minute."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER).close()
    except OSError as error:
        raise WorkflowError(f"nobody answers at {address}: {error}") from None
