"""Make the bill of materials of an unlearned model: CycloneDX 1.6 with a model card (ML-BOM).

Confidential data sets are listed without a digest, from which a small set could be guessed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

from seuf.audit import needs_extra
from seuf.audit.forgetting_verdict import interval, known
from seuf.audit.report import unlearn_run

if TYPE_CHECKING:
    from cyclonedx.model import HashType, Property
    from cyclonedx.model.component import Component

LIMITATIONS = (
    "A low score on the forget questions shows that these questions are no longer answered, "
    "not that the knowledge is gone.",
    "Nothing is said of abilities that the retain questions do not ask for.",
    "Intervals are the score plus and minus 1.96 standard errors over the questions, cut at 0 and "
    "1; other seeds are not part of them.",
)
Report = Mapping[str, Any]


@needs_extra()
def bom(report: Report) -> str:
    """Return the bill of materials of a passed audit as JSON; equal reports give equal bytes.

    Raises:
        InputError: If the extra is missing.
    """
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.output.json import JsonV1Dot6

    model = _model(report)
    materials = [*_base_and_delta(report), *_data(report), *_packages(report)]
    bill = Bom(
        serial_number=uuid5(NAMESPACE_URL, f"urn:seuf:delta:{report['delta']['sha256']}"),
        metadata=BomMetaData(timestamp=datetime.fromisoformat(report["audited"]), component=model),
        components=materials,
    )
    bill.register_dependency(model, materials)
    content = json.loads(JsonV1Dot6(bill).output_as_string())
    # the library has no class for model cards
    content["metadata"]["component"]["modelCard"] = _model_card(report)
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def _model(report: Report) -> Component:
    from cyclonedx.model.component import Component, ComponentType

    keys = ("study", "method", "verdict", "seed", "experts", "settings")
    properties = {key: report[key] for key in keys}
    properties |= {f"parameters_{key}": report["changes"][key] for key in ("changed", "total")}
    return Component(
        name=f"{report['base']['name']}, after unlearning",
        type=ComponentType.MACHINE_LEARNING_MODEL,
        version=report["delta"]["sha256"][:12],
        bom_ref="model",
        properties=_properties(properties),
    )


def _base_and_delta(report: Report) -> Iterator[Component]:
    from cyclonedx.model.component import Component, ComponentType

    base, delta = report["base"], report["delta"]
    yield Component(
        name=base["name"],
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="base_model",
        # a property: CycloneDX's hashes are of files, this digest is of tensors
        properties=_properties({"model_digest": base["digest"]}),
    )
    hashes = _hashes(delta["sha256"])
    yield Component(name=delta["path"], type=ComponentType.FILE, bom_ref="delta", hashes=hashes)


def _data(report: Report) -> Iterator[Component]:
    from cyclonedx.model.component import Component, ComponentType

    for material in _data_sets(report):
        confidential = material["confidential"]
        yield Component(
            name=material["path"],
            type=ComponentType.DATA,
            bom_ref=_reference(material),
            hashes=_hashes(None if confidential else material["sha256"]),
            properties=_properties({"confidential": confidential}),
        )


def _packages(report: Report) -> Iterator[Component]:
    """Yield the packages installed when the delta was made."""
    from cyclonedx.model.component import Component
    from packageurl import PackageURL

    run = unlearn_run(report)
    for name, version in sorted(run["environment"]["packages"].items()) if run else ():
        purl = PackageURL("pypi", name=name, version=version)
        yield Component(name=name, version=version, bom_ref=f"package:{name}", purl=purl)


def _data_sets(report: Report) -> list[Mapping[str, Any]]:
    return [one for one in report["materials"] if one["role"] == "data"]


def _reference(material: Mapping[str, Any]) -> str:
    return f"data:{material['path']}"


def _hashes(sha256: str | None) -> list[HashType]:
    from cyclonedx.model import HashAlgorithm, HashType

    return [HashType(alg=HashAlgorithm.SHA_256, content=sha256)] if sha256 else []


def _properties(values: Mapping[str, Any]) -> list[Property]:
    from cyclonedx.model import Property

    texts = {
        name: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for name, value in values.items()
        if value is not None
    }
    return [Property(name=f"seuf:{name}", value=text) for name, text in texts.items()]


def _model_card(report: Report) -> dict[str, Any]:
    scores = report["scores"]
    limits, chance = list(LIMITATIONS), scores.get("chance")
    if known(chance):
        limits.append(f"Guessing gives {chance} on the forget questions.")
    return {
        "modelParameters": {
            "task": "text-generation",
            "architectureFamily": "mixture of experts",
            "datasets": [{"ref": _reference(one)} for one in _data_sets(report)],
        },
        "quantitativeAnalysis": {"performanceMetrics": list(_metrics(scores))},
        "considerations": {"technicalLimitations": limits},
    }


def _metrics(scores: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the scores before and after with their intervals, then the routing overlaps."""
    for name in ("forget", "retain"):
        score = scores.get(name) or {}
        for moment in ("before", "after"):
            if known(score.get(moment)):
                yield {
                    "type": score["measure"],
                    "slice": f"{name} questions, {moment} unlearning",
                    "value": str(score[moment]),
                    **_confidence(score, moment),
                }
    for name, overlap in (scores.get("routing_overlap") or {}).items():
        if known(overlap):
            yield {"type": "routing overlap", "slice": f"{name} texts", "value": str(overlap)}


def _confidence(score: Mapping[str, Any], moment: str) -> dict[str, dict[str, str]]:
    bounds = interval(score, moment)
    if bounds is None:
        return {}
    low, high = (f"{bound:.6g}" for bound in bounds)
    return {"confidenceInterval": {"lowerBound": low, "upperBound": high}}
