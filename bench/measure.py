"""Time and memory of a piece of work, and what the machine can do at best."""

from __future__ import annotations

import platform
import resource
import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import torch


class Cost(NamedTuple):
    """Median seconds of one call, and peak bytes above what was there before."""

    seconds: float
    peak: int


def cost(work: Callable[[], object], device: str, repeats: int = 5, warm: int = 2) -> Cost:
    """Return what a call costs once it is warm: wall time, with a GPU idle before and after.

    What the first calls take and keep is part of the peak.
    """
    before = reset_peak(device)
    for _ in range(warm):
        work()
    wait(device)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        wait(device)
        times.append(time.perf_counter() - start)
    return Cost(median(times), peak(device) - before)


def wait(device: str) -> None:
    """Wait until the device is idle."""
    if device == "cuda":
        torch.cuda.synchronize()


def reset_peak(device: str) -> int:
    """Start measuring the peak; return what is in use now."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    return peak(device)


def peak(device: str) -> int:
    """Return the most memory that was in use; of a CPU since the process began."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Machine(NamedTuple):
    """What a device does at best: its name, FLOP/s in bfloat16 (CPU: float32) and bytes/s."""

    name: str
    flops: float
    bandwidth: float


def machine(device: str) -> Machine:
    """Return the measured ceilings: a large matrix product, and a large copy, read and written."""
    size, dtype = (8192, torch.bfloat16) if device == "cuda" else (2048, torch.float32)
    one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    product = cost(lambda: one @ other, device, repeats=20).seconds
    source = torch.randn(2**28 if device == "cuda" else 2**25, device=device)
    target = torch.empty_like(source)
    copy = cost(lambda: target.copy_(source), device, repeats=20).seconds
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or "CPU"
    return Machine(name, 2 * size**3 / product, 2 * source.numel() * 4 / copy)
