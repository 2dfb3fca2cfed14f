"""report.html: one file that holds everything, and nothing that a label can break."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from sonobench.report.pictures import cases
from sonobench.report.write import write_figures
from sonobench.tables import TableError
from tests.report.read_page import Page, written


@pytest.fixture(scope="session")
def plain(plain_page):
    return Page(plain_page.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def hostile(hostile_page):
    return Page(hostile_page.read_text(encoding="utf-8"))


TRAININGS = {"linear_probe": "linear probe", "full_finetune": "full fine-tuning"}


def test_every_model_stands_in_its_row_with_its_numbers_under_their_headings(plain_run, plain):
    groups, headings, *rows = plain.table("tiny_run: macro F1")
    assert groups[1:] == ["in-domain 48 images, 12 patients", "abroad 44 images, 11 patients"]
    # In-domain all readings agree; abroad a class is missing, and two images are identical.
    columns = {
        0: ("in_domain", "open", "all", "macro_f1"),
        3: ("in_domain", "open", "all", "weighted_f1"),
        4: ("abroad", "open", "all", "macro_f1"),
        7: ("abroad", "closed", "all", "macro_f1"),
        8: ("abroad", "open", "distinct", "macro_f1"),
        9: ("abroad", "closed", "distinct", "macro_f1"),
        10: ("abroad", "open", "all", "weighted_f1"),
    }
    assert headings == [
        *("macro F1", "group", "fold sd", "weighted F1"),
        *("macro F1", "group", "fold sd", "macro F1 closed", "macro F1 43 distinct"),
        *("macro F1 closed 43 distinct", "weighted F1"),
    ]
    key = ["encoder", "adaptation", "evaluation", "label_space", "images", "metric"]
    results = plain_run.evaluation.results
    results = results[
        (results["subgroup"] == "all")
        & (results["aggregate"] == "mean_of_folds")
        & (results["calibration"] == "none")
    ].set_index(key)
    shown = {row[0]: row[1:] for row in rows}
    models = list(
        dict.fromkeys(
            zip(plain_run.predictions["encoder"], plain_run.predictions["adaptation"], strict=True)
        )
    )
    assert len(models) == 6
    for encoder, adaptation in models:
        [cells] = [
            cells
            for name, cells in shown.items()
            if (name == "majority class no encoder, control" and encoder == "none")
            or name.removesuffix(", control") == f"{encoder} {TRAININGS.get(adaptation)}"
        ]
        for place, column in columns.items():
            row = results.loc[(encoder, adaptation, *column)]
            expected = f"{row.estimate:.3f}"
            if column[-1] == "macro_f1":
                expected += f" [{row.ci_low:.3f}, {row.ci_high:.3f}]"
            assert re.sub("[†≈]", "", cells[place]) == expected
        for place, where in ((2, "in_domain"), (6, "abroad")):
            sd = results.loc[(encoder, adaptation, where, "open", "all", "macro_f1")].fold_sd
            assert cells[place] == f"{sd:.3f}"


def test_a_skipped_encoder_is_named_with_its_reason(plain):
    assert "absent has no numbers: its weights are not at hand" in plain.text


def test_the_answer_names_the_best_its_interval_and_whom_it_cannot_be_told_from(plain_run, plain):
    assert re.search(
        r"In-domain, net \(full fine-tuning\) has the highest macro F1 of 3 models that are not "
        r"controls: 0\.\d{3} \(95 % interval 0\.\d{3} to 0\.\d{3}; 48 images of 12 patients\)",
        plain.text,
    )
    assert "Its full fine-tuning minus its linear probe: " in plain.text


def test_intervals_and_fold_deviation_are_named_as_what_they_are(plain):
    assert "conditional on the trained models" in plain.text
    assert "standard deviation over training folds. It is not a confidence interval" in plain.text


def test_the_page_refers_to_nothing_outside_itself(plain):
    for _, attributes in plain.tags:
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert all("src" not in attributes for attributes in plain.all("script"))
    assert not re.search(r"https?://|url\(|@import", plain.text)


def test_only_the_pages_own_scripts_may_run(plain):
    policy = next(a["content"] for a in plain.all("meta") if "http-equiv" in a)
    assert "default-src 'none'" in policy
    runs = [a for a in plain.all("script") if a.get("type") != "application/json"]
    assert policy.count("'sha256-") == len(runs) == 2
    assert "script-src 'unsafe-inline'" not in policy


def test_links_within_the_page_have_their_target_and_ids_are_unique(plain):
    ids = [attributes["id"] for _, attributes in plain.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {attributes["href"][1:] for attributes in plain.all("a")}
    assert targets <= set(ids)


def test_tables_and_pictures_can_be_read_aloud(plain):
    assert all("scope" in attributes for attributes in plain.all("th"))
    assert len(plain.all("caption")) == len(plain.all("table"))
    assert all(attributes["alt"] for attributes in plain.all("img"))


def test_each_picture_is_embedded_once(plain_run, plain):
    pictures = json.loads(plain.data["thumbnails"])
    files = list((plain_run.folder / "diagnostics" / "thumbnails").glob("*.webp"))
    assert len(pictures) == len(set(pictures)) == len(files) == 60


def test_every_cell_tells_how_many_images_stand_behind_it(plain_run, plain):
    buttons = [a for a in plain.all("button") if a.get("data-model") == "net_b, linear probe"]
    tested = plain_run.predictions
    tested = tested[tested["encoder"] == "net_b"]
    wrong = tested[(tested["role"] == "test") & (tested["label"] == "brain")]
    said_femur = wrong[[row.argmax() == 1 for row in wrong["logits"]]]
    cell = [
        a
        for a in buttons
        if (a["data-dataset"], a["data-true"], a["data-predicted"]) == ("home", "brain", "femur")
    ]
    assert sum(int(a["data-images"]) for a in cell) == said_femur["image_id"].nunique()


def test_every_models_probabilities_of_an_image_are_its_mean_over_folds(plain_run, plain):
    cases = json.loads(plain.data["cases"])
    place = next(iter(cases["opinion"]))
    image = cases["id"][int(place)]
    model = [m["title"] for m in cases["models"]].index("net_b, linear probe")
    rows = plain_run.predictions
    rows = rows[(rows["encoder"] == "net_b") & (rows["image_id"] == image)]
    rows = rows[rows["role"] != "validation"]
    shares = [[2.718281828**v for v in row] for row in rows["logits"]]
    mean = [sum(s[k] / sum(s) for s in shares) / len(shares) for k in range(3)]
    shown = cases["opinion"][place]["percent"][3 * model : 3 * model + 3]
    assert shown == pytest.approx([100 * share for share in mean], abs=0.5)


def test_what_a_model_predicts_is_not_told_by_rounded_percentages(plain_run):
    material = plain_run.material()
    opinions = material.opinions
    near = np.tile(np.float32([0.4985, 0.4995, 0.002]), (*opinions.probabilities.shape[:2], 1))
    told = cases(material.run, replace(opinions, probabilities=near))
    for opinion in told["opinion"].values():
        assert opinion["percent"][:3] == [50, 50, 0]
        assert opinion["predicted"] == [1] * len(opinions.models)


def test_confusion_counts_are_summed_over_folds(plain_run, plain):
    table = plain_run.evaluation.confusions
    brain = table[
        (table["encoder"] == "net_b")
        & (table["evaluation"] == "in_domain")
        & (table["label_space"] == "open")
        & (table["images"] == "all")
        & (table["true"] == "brain")
    ]
    right, total = brain.loc[brain["predicted"] == "brain", "count"].sum(), brain["count"].sum()
    assert total % 3 == 0  # every brain image once in each of three folds
    assert f"{100 * right / total:.1f} % {right}" in plain.text


def test_what_nobody_says_of_the_pretraining_is_unknown(plain):
    # The cards know of fetal_planes_db only, not of these cohorts.
    assert "unknown nobody says" in plain.text
    assert "not listed ImageNet-1k only" in plain.text


def test_markup_in_labels_is_shown_as_text(hostile_run, hostile):
    assert "<script>alert(1)</script>" in hostile.text
    assert 'net"><img src=x onerror=alert(2)>_&_{1}' in hostile.text
    assert "<b>gone</b> has no numbers: not at <i>hand</i> & never {{ was }}" in hostile.text
    assert len(hostile.all("script")) == 6  # two that run, four that hold data
    assert "<script>alert(1)</script>" in json.loads(hostile.data["cases"])["classes"]
    assert all(attributes["src"].startswith("data:") for attributes in hostile.all("img"))
    assert not any(name.startswith("on") for _, attributes in hostile.tags for name in attributes)


def test_braces_in_labels_are_not_evaluated(hostile):
    assert "{{ 7 * 7 }} {% raw %} #1 ~^\\" in hostile.text


def test_the_same_folder_gives_the_same_bytes(plain_run, plain_page):
    def made():
        folder = plain_run.folder
        files = [folder / "report.html", *(folder / "tables").glob("*")]
        files += (folder / "figures").glob("*")
        return {file: file.read_bytes() for file in files}

    first = made()
    plain_run.report()
    assert made() == first
    assert {".svg", ".pdf", ".md", ".tex"} <= {file.suffix for file in first}


def test_timings_change_nothing(plain_run, plain, copy_of):
    copy = copy_of(plain_run)
    manifest = json.loads((copy.folder / "manifest.json").read_text())
    timed = {"seconds": {"all": 1.5}, "started": "2027-05-06T07:08:09+0000"}
    (copy.folder / "manifest.json").write_text(json.dumps(manifest | timed))
    assert written(copy) == (plain_run.folder / "report.html").read_text(encoding="utf-8")


def test_without_pictures_the_page_says_so_and_names_images_by_their_ids(plain_run, copy_of):
    copy = copy_of(plain_run)
    shutil.rmtree(copy.folder / "diagnostics" / "thumbnails")
    bare = Page(written(copy))
    assert json.loads(bare.data["thumbnails"]) == []
    assert json.loads(bare.data["cases"])["id"]
    assert "There are no pictures in this run's folder" in bare.text


def test_without_diagnostics_the_results_are_still_shown(plain_run, copy_of):
    copy = copy_of(plain_run)
    shutil.rmtree(copy.folder / "diagnostics")
    bare = Page(written(copy))
    assert "no certificate" in bare.text
    assert "#training" not in {attributes["href"] for attributes in bare.all("a")}


def test_a_failure_is_listed_and_what_was_skipped_for_it_is_not(plain_run, copy_of):
    copy = copy_of(plain_run)
    manifest = json.loads((copy.folder / "manifest.json").read_text())
    cause = "decode home at 224"
    manifest["failures"] = [
        {"job": cause, "error": "out of <memory>", "because_of": None},
        {
            "job": "embed net · home",
            "error": f"skipped, because {cause!r} failed",
            "because_of": cause,
        },
    ]
    (copy.folder / "manifest.json").write_text(json.dumps(manifest))
    text = Page(written(copy)).text
    assert f"failed: {cause}: out of <memory>" in text
    assert "failed: embed net" not in text


def test_images_left_out_are_counted_with_the_answer_and_listed_in_the_audit(plain_run, copy_of):
    copy = copy_of(plain_run)
    audit = json.loads((copy.folder / "audit.json").read_text())
    audit["left_out"] = ["home.csv, row 7: scans/bad.png: truncated"]
    (copy.folder / "audit.json").write_text(json.dumps(audit))
    text = Page(written(copy)).text
    assert "Problem: images that could not be read and were left out: 1; see the audit" in text
    assert "home.csv, row 7: scans/bad.png: truncated" in text


def test_doubts_about_encoders_are_told_with_the_answer(doubtful_run):
    text = Page(written(doubtful_run)).text
    assert "Problem: net: its weights look random (median spectral distance 0.017)" in text
    assert "Problem: net_b: 1 of its chosen probes did not converge" in text
    assert "net‡" in text
    assert "net_b¶" in text


def change_record(run, label, **changes):
    file = run.folder / "manifest.json"
    manifest = json.loads(file.read_text())
    for record in manifest["encoders"]:
        if record["label"] == label:
            record.update(changes)
    file.write_text(json.dumps(manifest))


def test_features_computed_elsewhere_are_marked_unverified(plain_run, copy_of):
    copy = copy_of(plain_run)
    change_record(copy, "net_b", embeddings="features.parquet", sha256="ef" * 32, verified=False)
    text = Page(written(copy)).text
    assert "net_b§" in text
    assert "§ features computed elsewhere, not verified" in text
    assert "not verified: features computed elsewhere" in text


def test_a_cohort_in_the_pretraining_data_is_said_to_be_there(plain_run, copy_of):
    copy = copy_of(plain_run)
    listed = {"abroad": {"status": "listed", "evidence": "its paper, table 1"}}
    change_record(copy, "net", pretraining=listed)
    assert "in its pre-training data its paper, table 1" in Page(written(copy)).text


def test_a_model_that_diverged_is_a_row_with_its_reason_and_no_number(doubtful_run):
    text = Page(written(doubtful_run)).text
    reason = "3 of 3 trainings diverged: the loss of fold 0 is not finite in epoch 4"
    assert f"net_b full fine-tuning {reason}" in text
    assert "net, full fine-tuning: 3 of 3 trainings stayed at chance" in text
    assert "net‡‖ full fine-tuning" in text


def test_folds_are_counted_from_one_wherever_they_are_read(plain):
    roles = plain.table("Images of each role in each fold")
    assert [row[0] for row in roles[1:]] == ["1", "2", "3"]
    [heads, *_] = plain.table("The regularisation λ")
    assert heads[1:4] == ["λ, fold 1", "λ, fold 2", "λ, fold 3"]


def test_a_fold_without_a_probe_leaves_its_own_place_empty(plain_run, copy_of):
    copy = copy_of(plain_run)
    file = copy.folder / "diagnostics" / "probe.parquet"
    probe = pd.read_parquet(file)
    probe.loc[probe["fold"] == 2, "penalty"] *= 3
    probe[(probe["encoder"] != "net") | (probe["fold"] != 0)].to_parquet(file)
    rows = {row[0]: row[1:4] for row in Page(written(copy)).table("The regularisation λ")}
    assert rows["net"] == ["–", "0.1", "0.3"]
    assert rows["net_b"] == ["0.1", "0.1", "0.3"]


def test_the_command_that_reproduces_a_run_with_pseudonyms_makes_them_again(plain_run, copy_of):
    copy = copy_of(plain_run)
    audit = json.loads((copy.folder / "audit.json").read_text())
    (copy.folder / "audit.json").write_text(json.dumps(audit | {"pseudonymised": True}))
    text = Page(written(copy)).text
    assert "sonobench run protocol.yaml --data-root DATA --pseudonymise --out again" in text
    assert "with the same key of pseudonyms" in text


def test_every_table_of_scores_says_what_bold_and_brackets_are(plain):
    # The main table, F1 of the classes of two evaluations, and further metrics of five readings.
    assert plain.text.count("bold: the highest of each adaptation") == 1 + 2 + 5
    assert plain.text.count("NLL, AURC: lower is better, and none is bold") == 5


def test_a_map_of_some_images_says_that_errors_are_more_than_their_share(
    plain_run, plain, monkeypatch
):
    # 24 patients at home and 12 abroad have 96 and 44 images.
    assert "of the variance of its features; 140 images." in plain.text
    # 60 images have a picture, and errors have one first.
    monkeypatch.setattr("sonobench.report.charts.map.MOST_POINTS", 70)
    text = Page(written(plain_run)).text
    assert (
        "of the variance of its features; 70 of 140 images, among which those that models get "
        "wrong are more than their share."
    ) in text


def test_figures_that_somebody_else_put_there_are_left_alone(plain_run, copy_of):
    copy = copy_of(plain_run)
    figures = copy.folder / "figures"
    (figures / "drafts").mkdir(parents=True)
    for name in ("mine.svg", "notes.txt", "cost__gone.svg", "drops.pdf", "ranked.pdf"):
        (figures / name).write_text("")
    forest = {"forest": copy.drawn["forest"]}
    write_figures(replace(copy, drawn=forest).material(), figures)
    left = {file.name for file in figures.iterdir()}
    assert left == {"drafts", "mine.svg", "notes.txt", "ranked.pdf", "forest.svg", "forest.pdf"}


def test_every_chart_has_its_specification_and_says_what_it_shows(plain):
    specs = json.loads(plain.data["charts"])["specs"]
    places = [a for a in plain.all("div") if "data-chart" in a]
    assert {a["data-chart"] for a in places} == set(specs)
    assert all(a["role"] == "img" and len(a["aria-label"]) > 60 for a in places)
    drawn = {name.rsplit("-", 1)[0] for name in specs}
    assert {"forest", "drops", "ranks", "classes", "reliability", "risk_coverage"} <= drawn
    assert {"subgroups", "fine_tuning", "losses", "regularisation_path", "cost"} <= drawn


def test_every_figure_has_a_title_and_a_line_that_explains_it(plain_run):
    for figure in plain_run.material().figures.values():
        assert figure.title
        assert 60 < len(figure.says) < 260
        for panel in figure.panels:
            assert panel.title
            panel.chart.to_dict()  # altair holds it against the schema of Vega-Lite


def test_the_random_twin_is_not_called_suspect(plain):
    assert "random by design, a control" in plain.text
    assert "look random (median" not in plain.text


def test_a_folder_without_a_manifest_is_refused_by_name(plain_run, copy_of):
    copy = copy_of(plain_run)
    (copy.folder / "manifest.json").unlink()
    with pytest.raises(
        TableError,
        match=r"manifest\.json: cannot be read as JSON \(no such file\); have it made again",
    ):
        written(copy)
