"""The bill of materials of an unlearned model: CycloneDX 1.6 with a model card (ML-BOM)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

from seuf.audit.statement import unlearn_run
from seuf.errors import InputError

if TYPE_CHECKING:
    from cyclonedx.model import HashType, Property
    from cyclonedx.model.component import Component

NORMAL = 1.96  # standard errors on each side of a 95 % interval
LIMITATIONS = (
    "A low score on the forget questions shows that these questions are no longer answered, "
    "not that the knowledge is gone.",
    "Nothing is said of abilities that the retain questions do not ask for.",
    "Intervals are the score plus and minus 1.96 standard errors over the questions; other seeds "
    "are not part of them.",
)
Report = Mapping[str, Any]


def bom(report: Report) -> str:
    """Return the bill as JSON; the same report gives the same bytes.

    Raises:
        InputError: If there is no delta, so that no model was made.
    """
    from cyclonedx.output.json import JsonV1Dot6

    if not report["delta"]:
        raise InputError(f"There is no delta of {report['method']} to make a bill of materials of.")
    made = json.loads(JsonV1Dot6(_bill(report)).output_as_string())
    # the library has no class for model cards
    made["metadata"]["component"]["modelCard"] = _model_card(report)
    return json.dumps(made, indent=2, sort_keys=True) + "\n"


def _bill(report: Report) -> Any:
    from cyclonedx.model.bom import Bom, BomMetaData

    model, parts = _model(report), list(_parts(report))
    bill = Bom(
        serial_number=uuid5(NAMESPACE_URL, f"urn:seuf:delta:{report['delta']['sha256']}"),
        metadata=BomMetaData(timestamp=datetime.fromisoformat(report["audited"]), component=model),
        components=parts,
    )
    bill.register_dependency(model, parts)
    return bill


def _model(report: Report) -> Component:
    from cyclonedx.model.component import Component, ComponentType

    changes = report.get("changes") or {}
    facts = {
        "study": report["study"],
        "method": report["method"],
        "verdict": report["verdict"],
        "seed": report.get("seed"),
        "experts": report.get("experts"),
        "settings": report.get("settings"),
    } | {f"parameters_{key}": changes[key] for key in ("changed", "total") if key in changes}
    return Component(
        name=f"{report['base']['name']}, after unlearning",
        type=ComponentType.MACHINE_LEARNING_MODEL,
        version=report["delta"]["sha256"][:12],
        bom_ref="model",
        properties=_properties(facts),
    )


def _parts(report: Report) -> Iterator[Component]:
    """Yield the base model, the delta, the data and the packages."""
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    base, delta = report["base"], report["delta"]
    yield Component(
        name=base["name"],
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="base_model",
        # of tensors, not of a file: no hash in the sense of CycloneDX
        properties=_properties({"model_digest": base["digest"]}),
    )
    hashes = _hashes(delta["sha256"])
    yield Component(name=delta["path"], type=ComponentType.FILE, bom_ref="delta", hashes=hashes)
    yield from map(_data, _data_sets(report))
    for name, version in _packages(report).items():
        purl = PackageURL("pypi", name=name, version=version)
        yield Component(name=name, version=version, bom_ref=f"package:{name}", purl=purl)


def _data(material: Mapping[str, Any]) -> Component:
    """Return a data set; a confidential one without digest, as a small set could be guessed."""
    from cyclonedx.model.component import Component, ComponentType

    confidential = material["confidential"]
    return Component(
        name=material["path"],
        type=ComponentType.DATA,
        bom_ref=_reference(material),
        hashes=_hashes(None if confidential else material["sha256"]),
        properties=_properties({"confidential": confidential}),
    )


def _data_sets(report: Report) -> list[Mapping[str, Any]]:
    return [one for one in report.get("materials") or [] if one["role"] == "data"]


def _reference(material: Mapping[str, Any]) -> str:
    return f"data:{material['path']}"


def _packages(report: Report) -> dict[str, str]:
    """Return name and version of the packages that the delta was made with."""
    run = unlearn_run(report)
    environment = (run or {}).get("environment") or {}
    return dict(sorted(environment.get("packages", {}).items()))


def _hashes(sha256: str | None) -> list[HashType]:
    from cyclonedx.model import HashAlgorithm, HashType

    return [HashType(alg=HashAlgorithm.SHA_256, content=sha256)] if sha256 else []


def _properties(facts: Mapping[str, Any]) -> list[Property]:
    from cyclonedx.model import Property

    known = {name: value for name, value in facts.items() if value is not None}
    return [Property(name=f"seuf:{name}", value=_text(value)) for name, value in known.items()]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _model_card(report: Report) -> dict[str, Any]:
    scores = report.get("scores") or {}
    limits = [*LIMITATIONS, *_chance(scores)]
    return {
        "modelParameters": {
            "task": "text-generation",
            "architectureFamily": "mixture of experts",
            "datasets": [{"ref": _reference(one)} for one in _data_sets(report)],
        },
        "quantitativeAnalysis": {"performanceMetrics": list(_metrics(scores))},
        "considerations": {"technicalLimitations": limits},
    }


def _chance(scores: Mapping[str, Any]) -> list[str]:
    if scores.get("chance") is None:
        return []
    return [f"Guessing gives {scores['chance']} on the forget questions."]


def _metrics(scores: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the scores of both sets, before and after, with their intervals."""
    for name in ("forget", "retain"):
        for moment in ("before", "after"):
            score = scores.get(name) or {}
            if score.get(moment) is not None:
                yield _metric(score, name, moment)
    for name, overlap in (scores.get("routing_overlap") or {}).items():
        if overlap is not None:
            yield {"type": "routing overlap", "slice": f"{name} texts", "value": str(overlap)}


def _metric(score: Mapping[str, Any], name: str, moment: str) -> dict[str, Any]:
    return {
        "type": score["measure"],
        "slice": f"{name} questions, {moment} unlearning",
        "value": str(score[moment]),
        **_interval(score[moment], score.get(f"{moment}_error")),
    }


def _interval(value: float, error: float | None) -> dict[str, dict[str, str]]:
    if error is None:
        return {}
    low, high = value - NORMAL * error, value + NORMAL * error
    return {"confidenceInterval": {"lowerBound": f"{low:.6g}", "upperBound": f"{high:.6g}"}}
