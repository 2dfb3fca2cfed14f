"""report.html: one file that holds everything, and nothing that a label can break."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from sonobench.report.page import page
from sonobench.tables import TableError

VOID = {"meta", "link", "br", "img", "input"}


class Page(HTMLParser):
    """Text, attributes and nesting of a page; refuses tags that do not close in order."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.texts, self.data = [], [], [], {}
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            attributes = next(a for tag, a in reversed(self.tags) if tag == "script")
            name = attributes.get("id", "code")
            self.data[name] = self.data.get(name, "") + data
        else:
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def written(run):
    return page(run.material())


@pytest.fixture(scope="session")
def plain(plain_page):
    return Page(plain_page.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def hostile(hostile_page):
    return Page(hostile_page.read_text(encoding="utf-8"))


def test_every_model_stands_there_with_its_number_and_interval(plain_run, plain):
    rows = plain_run.evaluation.results
    main = rows[
        (rows["metric"] == "macro_f1")
        & (rows["label_space"] == "open")
        & (rows["images"] == "all")
        & (rows["subgroup"] == "all")
        & (rows["aggregate"] == "mean_of_folds")
        & (rows["calibration"] == "none")
    ]
    assert len(main) == 12  # six models, two evaluations
    for row in main.itertuples():
        name = "majority class" if row.encoder == "none" else row.encoder
        assert name in plain.text
        assert f"{row.estimate:.3f} [{row.ci_low:.3f}, {row.ci_high:.3f}]" in plain.text


def test_open_and_closed_label_space_are_both_shown_where_they_differ(plain_run, plain):
    rows = plain_run.evaluation.results
    rows = rows[(rows["aggregate"] == "mean_of_folds") & (rows["adaptation"] == "linear_probe")]
    rows = rows.set_index(["encoder", "evaluation", "label_space", "subgroup", "images", "metric"])
    open_, closed = (
        rows.loc[("pixel_stats", "abroad", space, "all", "all", "macro_f1"), "estimate"]
        for space in ("open", "closed")
    )
    assert open_ != closed
    assert f"{open_:.3f}" in plain.text
    assert f"{closed:.3f}" in plain.text
    assert "macro F1 closed" in plain.text


def test_a_skipped_encoder_is_named_with_its_reason(plain):
    assert "absent has no numbers: its weights are not at hand" in plain.text


def test_the_answer_names_the_best_its_interval_and_whom_it_cannot_be_told_from(plain_run, plain):
    assert re.search(
        r"In-domain, net \(full fine-tuning\) has the highest macro F1 of 3 models that are not "
        r"controls: 0\.\d{3} \(95 % interval 0\.\d{3} to 0\.\d{3}; 48 images of 12 patients\)",
        plain.text,
    )
    assert "Its full fine-tuning minus its linear probe: " in plain.text
    assert "significant" not in plain.text


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
    (copy.folder / "manifest.json").write_text(json.dumps(manifest | {"seconds": {"all": 1.5}}))
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


def test_failures_are_listed(plain_run, copy_of):
    copy = copy_of(plain_run)
    manifest = json.loads((copy.folder / "manifest.json").read_text())
    manifest["failures"] = [{"job": "linear probe net_c", "error": "out of <memory>"}]
    (copy.folder / "manifest.json").write_text(json.dumps(manifest))
    assert "failed: linear probe net_c: out of <memory>" in Page(written(copy)).text


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
    assert "net_b full fine-tuning diverged: the loss of fold 0 is not finite in epoch 4" in text
    assert "net, full fine-tuning stayed at chance" in text
    assert "net‡‖ full fine-tuning" in text


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
    with pytest.raises(TableError, match=r"manifest\.json: expected the JSON that a run leaves"):
        written(copy)
