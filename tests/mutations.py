"""Break lines of the source, one at a time, and tell which of them the tests notice.

    python -m tests.mutations

Works on a copy of the project, so nothing here changes, and takes a few minutes. Each mutation
names the tests that should notice it; all of these are run on the unbroken source first. Ends with
1 if more than one of ten mutations goes unnoticed.
"""

# ruff: noqa: T201 - a script for people

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PASSED, FAILED = 0, 1


class Mutation(NamedTuple):
    """A line that is broken.

    Attributes:
        meaning: What the program does instead.
        file: Below `src/`.
        old: A text that stands once in the file.
        new: What takes its place.
        tests: Files or folders below `tests/`, apart from each other by spaces.
    """

    meaning: str
    file: str
    old: str
    new: str
    tests: str


MUTATIONS = [
    Mutation(
        "gradient difference climbs on the retain set too",
        "seuf/unlearning/objectives.py",
        "return -forget_nll.mean() + retain_weight * retain_loss.mean()",
        "return -forget_nll.mean() - retain_weight * retain_loss.mean()",
        "unlearning/test_objectives.py",
    ),
    Mutation(
        "an answer that goes on after the right sentence is whole",
        "seuf/benchmarks/answers.py",
        'return float("\\n".join(lines) == expected)',
        'return float("\\n".join(lines).startswith(expected))',
        "benchmarks/test_produced.py",
    ),
    Mutation(
        "an answer is read off one token before its end",
        "seuf/benchmarks/produced.py",
        "for offset in range(len(reference.continuation) + 1)",
        "for offset in range(len(reference.continuation))",
        "benchmarks/test_produced.py",
    ),
    Mutation(
        "the anchor loss counts padding",
        "seuf/unlearning/anchor.py",
        "return masked_mean((gates - target).square().sum(-1), mask, total)",
        "return (gates - target).square().sum(-1).mean()",
        "unlearning/test_anchor.py",
    ),
    Mutation(
        "NPO takes a block of texts for one text",
        "seuf/unlearning/objectives.py",
        "return (self.values[:, None] * self.texts).sum(-1).flatten()",
        "return (self.values * self.mask).sum(-1)",
        "unlearning/test_objectives.py unlearning/test_forward_passes.py",
    ),
    Mutation(
        "a micro-batch is weighed as if it were a whole batch",
        "seuf/unlearning/objectives.py",
        "return (values * mask).sum() / (mask.sum() if total is None else total)",
        "return (values * mask).sum() / mask.sum()",
        "unlearning/test_objectives.py unlearning/test_forward_passes_micro.py",
    ),
    Mutation(
        "the checkpoint of the highest utility is kept, whatever it forgot",
        "seuf/unlearning/evaluations.py",
        "preferred = preference(forgotten, evaluation.utility, self.target)",
        "preferred = preference(1.0, evaluation.utility, self.target)",
        "unlearning/test_algorithm_loop.py",
    ),
    Mutation(
        "contrast selects what serves the retain set",
        "seuf/unlearning/rankings.py",
        "return forget - retain\n",
        "return retain - forget\n",
        "unlearning/test_selection.py",
    ),
    Mutation(
        "affinity is the mean of all tokens, not of the samples' means",
        "seuf/moe/routing.py",
        "weights = counted / counted.sum(1, keepdim=True).clamp(min=1)",
        "weights = counted / counted.sum() * len(counted)",
        "moe/test_routing.py",
    ),
    Mutation(
        "a token is predicted from the one before the last",
        "seuf/moe/loss.py",
        "[:, 1:], (0, 1), value=IGNORED)",
        "[:, 2:], (0, 2), value=IGNORED)",
        "moe/test_loss.py",
    ),
    Mutation(
        "a digest does not tell shapes apart",
        "seuf/moe/digests.py",
        "{list(tensor.shape)} ",
        "",
        "moe/test_digests.py",
    ),
    Mutation(
        "a delta has the parameter's path for its key, not the checkpoint's",
        "seuf/moe/deltas.py",
        "key: value.contiguous().clone()",
        "path: value.contiguous().clone()",
        "moe/test_deltas.py",
    ),
    Mutation(
        "PrivLeak takes what looks unknown for what looks known",
        "seuf/benchmarks/measures.py",
        "return privleak_of_muse(1 - auc, 1 - reference_auc)",
        "return privleak_of_muse(auc, reference_auc)",
        "benchmarks/test_measures.py",
    ),
    Mutation(
        "a stage watches only what its node's modules import themselves",
        "kedro_dvc/project.py",
        ".find_upstream_modules(module)",
        ".find_modules_directly_imported_by(module)",
        "kedro_dvc/test_stages.py",
    ),
    Mutation(
        "a file that was replaced between two stages is not noticed in the lock",
        "seuf/audit/lineage.py",
        "if producer.outs[path] != file:",
        "if path not in producer.outs:",
        "audit/test_lineage.py",
    ),
    Mutation(
        "a base model may be changed in one tensor",
        "seuf/moe/digests.py",
        "    if changed:\n",
        "    if len(changed) > 1:\n",
        "moe/test_digests.py moe/test_deltas.py",
    ),
]


def main() -> int:
    """Return 0 if at least nine of ten mutations are noticed."""
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "project"
        _copy(project)
        files = dict.fromkeys(file for mutation in MUTATIONS for file in mutation.tests.split())
        if (ended := _tests(project, list(files))).returncode != PASSED:
            sys.exit(f"The tests fail on the unbroken source:\n{ended.stdout}{ended.stderr}")
        noticed = sum(_is_noticed(project, mutation) for mutation in MUTATIONS)
    print(f"{noticed} of {len(MUTATIONS)} noticed")
    return 0 if noticed >= 0.9 * len(MUTATIONS) else 1


def _is_noticed(project: Path, mutation: Mutation) -> bool:
    path = project / "src" / mutation.file
    source = path.read_text(encoding="utf-8")
    if source.count(mutation.old) != 1:
        sys.exit(f"{mutation.file} has {mutation.old!r} {source.count(mutation.old)} times.")
    path.write_text(source.replace(mutation.old, mutation.new), encoding="utf-8")
    ended = _tests(project, mutation.tests.split())
    path.write_text(source, encoding="utf-8")
    if ended.returncode not in (PASSED, FAILED):
        sys.exit(f"pytest failed on {mutation.tests}:\n{ended.stdout}{ended.stderr}")
    print("noticed" if ended.returncode else "MISSED ", mutation.meaning, flush=True)
    return ended.returncode == FAILED


def _tests(project: Path, files: list[str]) -> subprocess.CompletedProcess[str]:
    """Run tests in the copy, up to the first that fails, as `make test` would."""
    pytest = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*pytest, *(f"tests/{file}" for file in files)],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project / "src"), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def _copy(project: Path) -> None:
    """Copy the project's files, and make them known to a git of the copy."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.check_output(listed, cwd=ROOT, text=True).splitlines():
        if (ROOT / name).is_file():
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, project / name)
    for command in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *command], cwd=project, check=True)


if __name__ == "__main__":
    sys.exit(main())
