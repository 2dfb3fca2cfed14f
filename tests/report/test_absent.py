"""Every model of the protocol that has no numbers has a row, and the reason is the root's."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hospitals import run_tiny

from sonobench import steps
from sonobench.encoders import resolve
from sonobench.protocol import EncoderEntry
from sonobench.report.absent import absent_models
from sonobench.report.findings import findings
from sonobench.report.run_folder import RunFolder
from sonobench.report.scores import Scores


@pytest.fixture(scope="module")
def scores(plain_run):
    return Scores.from_results(plain_run.evaluation.results)


def with_failures(plain_run, scores, *, adaptations=("linear_probe", "full_finetune"), **failures):
    """Absent models of the plain run whose second encoder asks for these adaptations."""
    run = RunFolder.read(plain_run.folder)
    entries = [
        entry.model_copy(update={"adaptations": adaptations}) if entry.label == "net_b" else entry
        for entry in run.protocol.encoders
    ]
    manifest = run.manifest | {"failures": list(failures["failures"])}
    run = replace(
        run,
        protocol=run.protocol.model_copy(update={"encoders": tuple(entries)}),
        manifest=manifest,
    )
    found = {(a.name, a.training): a.reason for a in absent_models(run, scores)}
    return run, found


def failed(job, error, because_of=None):
    return {"job": job, "error": error, "because_of": because_of}


def finetuning_jobs(plain_run, label):
    """Names of the jobs that really fine-tune an encoder of this label."""
    run = RunFolder.read(plain_run.folder)
    spec = resolve(EncoderEntry(name="pixel_stats", label=label), 0, plain_run.folder)
    settings = run.protocol.adaptations.full_finetune
    certificate = steps.certificate_job(spec, run.protocol.numerics, "mark")
    jobs, _ = steps.finetune_jobs(
        "full_finetune",
        settings,
        spec,
        certificate.tasks[0],
        [],
        run.samples,
        run.splits,
        run.protocol.classes,
        0,
        run.protocol.numerics,
    )
    return certificate.name, [job.name for job in jobs]


def test_a_fine_tuning_whose_folds_all_failed_is_a_row_beside_its_probe(plain_run, scores):
    _, jobs = finetuning_jobs(plain_run, "net_b")
    assert len(jobs) == 3
    failures = [failed(job, "CUDA out of memory") for job in jobs]
    run, found = with_failures(plain_run, scores, failures=failures)
    assert found["net_b", "full fine-tuning"] == f"failed: {jobs[0]}: CUDA out of memory"
    assert ("net_b", "linear probe") not in found
    # What is a reason already is not said again.
    texts = [text for text in (f.text for f in findings(run, scores)) if jobs[0] in text]
    assert len(texts) == 1


def test_an_encoder_that_was_not_admitted_says_why_and_not_what_was_skipped(plain_run, scores):
    admission, jobs = finetuning_jobs(plain_run, "net_b")
    failures = [
        failed(jobs[0], f"skipped, because {admission!r} failed", admission),
        failed(admission, "its weights look random"),
    ]
    _, found = with_failures(plain_run, scores, failures=failures)
    assert found["net_b", "full fine-tuning"] == f"failed: {admission}: its weights look random"


def test_a_failure_of_an_encoder_is_not_that_of_one_whose_name_begins_alike(plain_run, scores):
    _, jobs = finetuning_jobs(plain_run, "net_b2")
    _, found = with_failures(plain_run, scores, failures=[failed(jobs[0], "CUDA out of memory")])
    assert found["net_b", "full fine-tuning"] == "nothing that was trained on it is finished"


def test_what_cannot_be_trained_by_gradient_is_not_missed(plain_run, scores):
    # The protocol fine-tunes all that can be; pixel statistics have no weights.
    _, found = with_failures(plain_run, scores, adaptations=("linear_probe",), failures=[])
    assert set(found) == {("absent", "")}


def test_a_run_whose_features_do_not_fit_says_so_in_its_table(write_protocol, hospitals, tmp_path):
    table = pd.DataFrame({"image_id": ["home/none.png"], "features": [np.ones(2)]})
    table.to_parquet(hospitals / "mine.parquet")
    encoders = [{"embeddings": "mine.parquet", "label": "mine"}]
    stale = tmp_path / "run" / "diagnostics" / "certificates" / "mine.json"
    stale.parent.mkdir(parents=True)
    stale.write_text("{}")
    run_tiny(write_protocol(encoders=encoders), tmp_path / "run")
    text = (tmp_path / "run" / "tables" / "main.md").read_text()
    assert "- mine linear probe has no numbers: failed: read mine: " in text
    assert "no features for" in text
    failures = json.loads((tmp_path / "run" / "manifest.json").read_text())["failures"]
    assert {f["job"]: f["because_of"] for f in failures} == {
        "read mine": None,
        "linear probe mine": "read mine",
    }
    # What an earlier run of the folder admitted is not of this one.
    assert not stale.exists()
