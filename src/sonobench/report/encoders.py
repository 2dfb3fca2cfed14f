"""What is known of a run's encoders: admission, pre-training data, and how their probes went."""

from dataclasses import dataclass
from typing import Any

from sonobench.protocol import Dataset
from sonobench.report.run_folder import RunFolder


@dataclass(frozen=True)
class Admitted:
    """An encoder that took part.

    Attributes:
        label: its name in tables.
        verdict: what admission says of its weights.
        doubtful: whether the verdict is one to look at.
        certificate: of admission; empty for features computed elsewhere.
        facts: of its card, in words.
    """

    label: str
    verdict: str
    doubtful: bool
    certificate: dict[str, Any]
    facts: dict[str, str]


@dataclass(frozen=True)
class LedgerEntry:
    """Whether an encoder saw a dataset in its pre-training, who says so, and whether to worry."""

    status: str
    evidence: str
    doubtful: bool


@dataclass(frozen=True)
class ProbeRow:
    """Chosen probes of an encoder and seed: λ and marks of every fold, and how the path went."""

    encoder: str
    seed: int
    penalties: list[tuple[str, str]]
    validation_macro_f1: float
    gradient: float
    fits: int
    unfinished: int


def admitted(run: RunFolder) -> list[Admitted]:
    """Every encoder that took part, as the protocol lists them."""
    result = []
    for record in run.manifest["encoders"]:
        certificate = run.certificates.get(record["label"], {})
        verdict, doubtful = _verdict(run, record, certificate)
        facts = {**_facts(record), **_arithmetic(certificate)}
        result.append(Admitted(record["label"], verdict, doubtful, certificate, facts))
    return result


def _verdict(
    run: RunFolder, record: dict[str, Any], certificate: dict[str, Any]
) -> tuple[str, bool]:
    if not record.get("verified"):
        return "not verified: features computed elsewhere", True
    if "random_seed" in record["weights"]:
        return "random by design, a control", False
    if not certificate:
        return "no certificate", True
    if run.is_random_looking(record["label"]):
        return "looks random", True
    if certificate["random_looking_matrices"] and not record["control"]:
        count = len(certificate["random_looking_matrices"])
        return f"trained, but {count} single matrices look random", True
    if certificate["spectral_distance_median"] is None:
        return "no weight matrices to test", not record["control"]
    return "trained weights", False


def _facts(record: dict[str, Any]) -> dict[str, str]:
    if "embeddings" in record:
        return {"features": record["embeddings"], "SHA-256": record["sha256"]}
    preprocess = record["preprocess"]
    geometry = preprocess["geometry"]
    return {
        "architecture": record["architecture"],
        "feature": f"{record['feature']}, {record['dimension']} numbers",
        "input": f"{geometry['size']} × {geometry['size']} pixels, {geometry['kind']}, "
        f"{geometry['interpolation']}; mean {_listed(preprocess['mean'])}, "
        f"deviation {_listed(preprocess['std'])}",
        "weights": ", ".join(f"{k} {v}" for k, v in record["weights"].items()) or "none",
        "licence": record["licence"],
        "citation": record["citation"],
    }


def _arithmetic(certificate: dict[str, Any]) -> dict[str, str]:
    """On what and how features were computed, and how far that is from float32 on the CPU."""
    if not certificate:
        return {}
    compared = {
        "float32": certificate["difference_from_fp32"],
        "the CPU": certificate["difference_from_cpu"],
    }
    found = [
        f"at most {difference:.2g} of their length from {what}'s"
        for what, difference in compared.items()
        if difference is not None
    ]
    differences = f"; features differ by {', and in float32 by '.join(found)}" if found else ""
    return {"arithmetic": f"{certificate['precision']} on {certificate['device']}{differences}"}


def _listed(numbers: list[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)


def ledger(run: RunFolder) -> tuple[list[str], list[tuple[str, list[LedgerEntry]]]]:
    """Datasets, and for every encoder what is known of each in its pre-training.

    First the run's cohorts, then further datasets that any encoder's card speaks of, as a cohort
    may be part of one under another name. What nobody says is unknown, never clean.
    """
    cohorts = {_key(dataset): dataset for dataset in (run.protocol.source, *run.protocol.external)}
    records = run.manifest["encoders"]
    further = {name for record in records for name in record.get("pretraining", {})} - set(cohorts)
    keys = [*cohorts, *sorted(further)]
    rows = [
        (record["label"], [_entry(record, key, cohorts.get(key)) for key in keys])
        for record in records
    ]
    return keys, rows


def _key(dataset: Dataset) -> str:
    """Published archives are known by their loader, other cohorts by their own name."""
    published = dataset.loader in ("fetal_planes_db", "african_planes")
    return dataset.loader if published else dataset.name


def _entry(record: dict[str, Any], key: str, cohort: Dataset | None) -> LedgerEntry:
    if cohort is not None and cohort.loader == "phantom":
        return LedgerEntry("not possible", "synthetic images, made for the run", False)
    if record.get("control") and record["weights"].keys() <= {"random_seed"}:
        return LedgerEntry("not possible", "no trained weights", False)
    found = record.get("pretraining", {}).get(key)
    if found is None or found["status"] == "unknown":
        return LedgerEntry("unknown", found["evidence"] if found else "nobody says", True)
    if found["status"] == "listed":
        return LedgerEntry("in its pre-training data", found["evidence"], True)
    return LedgerEntry("not listed", found["evidence"], False)


def probe_rows(run: RunFolder) -> list[ProbeRow]:
    """One row an encoder and seed, as the protocol lists them."""
    if run.probe is None:
        return []
    order = {entry.label: position for position, entry in enumerate(run.protocol.encoders)}
    rows = []
    for (encoder, seed), path in run.probe.groupby(["encoder", "seed"]):
        chosen = path[path["chosen"]].set_index("fold")
        found = {
            fold: (f"{row['penalty']:.3g}", _marks(row["converged"], row["at_edge"]))
            for fold, row in chosen.to_dict("index").items()
        }
        rows.append(
            ProbeRow(
                str(encoder),
                int(str(seed)),
                [found.get(fold, ("–", "")) for fold in range(run.protocol.split.folds)],
                float(chosen["validation_macro_f1"].mean()),
                float(chosen["gradient"].max()),
                len(path),
                int((~path["converged"]).sum()),
            )
        )
    return sorted(rows, key=lambda row: (order.get(row.encoder, len(order)), row.seed))


def _marks(converged: bool, at_edge: bool) -> str:
    return ("" if converged else "¶") + ("*" if at_edge else "")
