"""Run a measurement and print it: `python -m bench steps --shape qwen --device cuda`."""

from __future__ import annotations

import json
import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TQDM_DISABLE", "1")

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from bench import offload
from bench.capture import capture
from bench.job import job
from bench.measure import Machine, machine
from bench.shapes import SHAPES, build
from bench.steps import steps
from seuf.moe.forward import compile_pieces

if TYPE_CHECKING:
    from bench.drive import Drive

WHAT = ["capture", "steps", "job", "offload", "drive", "smol"]
PARTS = ["plain", "look", "methods", "pilot"]


def main() -> None:
    """Measure, print a table for each measurement, and append its rows to a file as JSON."""
    options = _options()
    transformers.logging.set_verbosity_error()
    best = machine(options.device)
    _say(
        f"{best.name}; torch {torch.__version__}, transformers {transformers.__version__}; "
        f"{best.flops / 1e12:.3g} TFLOP/s, {best.bandwidth / 1e9:.3g} GB/s"
    )
    if "drive" in options.what:
        facts = {"machine": best.name, "shape": options.shape, "compiled": False}
        return _report("drive", facts, _drive(options).rows(), options.json)
    if "smol" in options.what:
        facts = {"machine": best.name, "shape": "smol", "compiled": False}
        return _report("smol", facts, _smol(options), options.json)
    dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
    base = (offload.build if "offload" in options.what else build)(
        options.shape, options.device, dtype
    )
    for compiled in [False, True] if options.compile else [False]:
        if compiled:
            compile_pieces(base.model)
        for what in options.what:
            facts = {"machine": best.name, "shape": options.shape, "compiled": compiled}
            _report(what, facts, _rows(what, base, best, options, compiled), options.json)


def _drive(options: Any) -> Drive:
    """Return the drive through a study whose parameters, as Kedro merges them, are in a file."""
    from bench.drive import Drive  # with all that scores questions
    from seuf.parameters import StudyParameters

    read = json.loads(Path(options.parameters).read_text(encoding="utf-8"))
    parameters = StudyParameters.model_validate(read)
    return Drive(options.shape, options.device, parameters, options.methods)


def _smol(options: Any) -> Iterator[dict[str, Any]]:
    from bench.smol import Smol  # with all that scores questions

    smol = Smol(options.device, options.checkpoint, options.tiny)
    return smol.rows(options.parts, options.profile)


def _rows(
    what: str, base: Any, best: Machine, options: Any, compiled: bool
) -> Iterator[dict[str, Any]]:
    device, batch, length = options.device, options.batch, options.length
    if what == "capture":
        return capture(base, best, device, options.sizes, length)
    if what == "steps":
        plain = not (options.no_plain or compiled)
        return steps(base, best, device, batch, length, plain)
    if what == "offload":
        return offload.offload(base, device, batch, length, options.limit_gb)
    return job(base, device, options.tokens, batch, length)


def _report(
    what: str, facts: dict[str, Any], rows: Iterator[dict[str, Any]], file: str | None
) -> None:
    """Say and keep each row as it comes: a measurement may be cut short."""
    _say(f"{what} {facts['shape']}{', compiled' if facts['compiled'] else ''}")
    for row in rows:
        _say("  " + "  ".join(f"{name} {_short(value)}" for name, value in row.items()))
        if file:
            with Path(file).open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(facts | {"what": what} | row) + "\n")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - this is a program


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("what", nargs="+", choices=WHAT)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="small")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=4, help="samples of each set in a step")
    parser.add_argument("--length", type=int, default=512, help="tokens in a sample")
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 64], help="of capture batches")
    parser.add_argument("--tokens", type=int, default=100_000, help="that a job captures")
    parser.add_argument("--limit-gb", type=float, help="device memory for the steps of offload")
    parser.add_argument("--compile", action="store_true", help="then again, compiled")
    parser.add_argument("--no-plain", action="store_true", help="leave plain transformers out")
    parser.add_argument("--parameters", help="JSON file with a study's parameters, for drive")
    parser.add_argument("--methods", nargs="+", default=[], help="of that study")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, help="of smol")
    parser.add_argument("--tiny", action="store_true", help="a smol that a CPU can do")
    parser.add_argument("--checkpoint", help="folder with smol's model, else random weights")
    parser.add_argument("--profile", action="store_true", help="tell what a look and a step call")
    parser.add_argument("--json", help="file to append the rows to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
