"""report.html: one file that holds everything, and nothing that a label can break."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from sonobench.report import write_report
from sonobench.tables import TableError

VOID = {"meta", "link", "br", "img", "line", "circle"}


class Page(HTMLParser):
    """Text, attributes and nesting of a page; refuses tags that do not close in order."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.texts = [], [], []
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
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def written(run):
    write_report(run.folder, run.evaluation)
    return (run.folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def plain(plain_run):
    return Page(written(plain_run))


@pytest.fixture(scope="session")
def hostile(hostile_run):
    return Page(written(hostile_run))


def test_every_model_stands_there_with_its_number_and_interval(plain_run, plain):
    rows = plain_run.evaluation.results
    main = rows[
        (rows["metric"] == "macro_f1") & (rows["label_space"] == "open") & (rows["images"] == "all")
    ]
    assert len(main) == 10  # five models, two evaluations
    for row in main.itertuples():
        name = "majority class" if row.encoder == "none" else row.encoder
        assert name in plain.text
        assert f"{row.estimate:.3f} [{row.ci_low:.3f}, {row.ci_high:.3f}]" in plain.text


def test_open_and_closed_label_space_are_both_shown_where_they_differ(plain_run, plain):
    rows = plain_run.evaluation.results.set_index(
        ["encoder", "evaluation", "label_space", "images", "metric"]
    )["estimate"]
    open_, closed = (
        rows["net", "abroad", space, "all", "macro_f1"] for space in ("open", "closed")
    )
    assert open_ != closed
    assert f"{open_:.3f}" in plain.text
    assert f"{closed:.3f}" in plain.text
    assert "macro F1 closed" in plain.text


def test_a_skipped_encoder_is_named_with_its_reason(plain):
    assert "absent is not in the table: its weights are not at hand" in plain.text


def test_the_answer_says_what_the_intervals_say_and_no_more(plain):
    assert re.search(
        r"In-domain, net \(linear probe\) has the highest macro F1 of 2 models that are not "
        r"controls: 0\.\d{3} \(95 % interval 0\.\d{3} to 0\.\d{3}; 48 images of 12 patients\)",
        plain.text,
    )
    assert "The intervals of net_b (linear probe) overlap with this one" in plain.text
    assert "significant" not in plain.text


def test_intervals_and_fold_deviation_are_named_as_what_they_are(plain):
    assert "conditional on the trained models" in plain.text
    assert "standard deviation over training folds. It is not a confidence interval" in plain.text


def test_the_page_refers_to_nothing_outside_itself(plain):
    for _, attributes in plain.tags:
        for name in ("src", "href", "xlink:href", "action", "srcset"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert plain.all("script") == []
    assert not re.search(r"https?://|url\(|@import", plain.text)


def test_links_within_the_page_have_their_target_and_ids_are_unique(plain):
    ids = [attributes["id"] for _, attributes in plain.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {attributes["href"][1:] for attributes in plain.all("a")}
    assert targets <= set(ids)


def test_tables_and_pictures_can_be_read_aloud(plain):
    assert all("scope" in attributes for attributes in plain.all("th"))
    assert len(plain.all("caption")) == len(plain.all("table"))
    assert all(attributes["alt"] for attributes in plain.all("img"))


def test_each_picture_is_embedded_once_with_its_id_beside_it(plain_run, plain):
    sources = [attributes["src"] for attributes in plain.all("img")]
    files = list((plain_run.folder / "diagnostics" / "thumbnails").glob("*.png"))
    assert len(sources) == len(set(sources)) == len(files)
    assert "scans/00_0.png" in plain.text


def test_confusion_counts_are_summed_over_folds(plain_run, plain):
    table = plain_run.evaluation.confusions
    brain = table[
        (table["encoder"] == "net")
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
    assert "<b>gone</b> is not in the table: not at <i>hand</i> & never {{ was }}" in hostile.text
    assert hostile.all("script") == []
    assert all(attributes["src"].startswith("data:") for attributes in hostile.all("img"))
    assert not any(name.startswith("on") for _, attributes in hostile.tags for name in attributes)


def test_braces_in_labels_are_not_evaluated(hostile):
    assert "{{ 7 * 7 }} {% raw %} #1 ~^\\" in hostile.text


def test_the_same_folder_gives_the_same_bytes(plain_run, plain):
    first = (plain_run.folder / "report.html").read_bytes()
    write_report(plain_run.folder, plain_run.evaluation)
    assert (plain_run.folder / "report.html").read_bytes() == first


def test_timings_change_nothing(plain_run, plain, copy_of):
    copy = copy_of(plain_run)
    manifest = json.loads((copy.folder / "manifest.json").read_text())
    (copy.folder / "manifest.json").write_text(json.dumps(manifest | {"seconds": {"all": 1.5}}))
    assert written(copy) == (plain_run.folder / "report.html").read_text(encoding="utf-8")


def test_without_pictures_the_page_says_so(plain_run, copy_of):
    copy = copy_of(plain_run)
    shutil.rmtree(copy.folder / "diagnostics" / "thumbnails")
    page = Page(written(copy))
    assert page.all("img") == []
    assert "There are no pictures in this run's folder" in page.text


def test_without_diagnostics_the_results_are_still_shown(plain_run, copy_of):
    copy = copy_of(plain_run)
    shutil.rmtree(copy.folder / "diagnostics")
    page = Page(written(copy))
    assert "no certificate" in page.text
    assert "#probe" not in {attributes["href"] for attributes in page.all("a")}


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


def test_the_forest_plot_draws_every_interval_within_its_panel(plain_run, plain):
    drawn = [line for line in plain.all("line") if line["class"] == "interval"]
    # Five models in-domain; abroad in both label spaces, as these differ.
    assert len(drawn) == len(plain.all("circle")) == 5 + 10
    for line in drawn:
        left, right = (float(line[end].removesuffix("%")) for end in ("x1", "x2"))
        assert 0 <= left <= right <= 100


def test_the_random_twin_is_not_called_suspect(plain):
    assert "random by design, a control" in plain.text
    assert "look random (median" not in plain.text


def test_a_folder_without_a_manifest_is_refused_by_name(plain_run, copy_of):
    copy = copy_of(plain_run)
    (copy.folder / "manifest.json").unlink()
    with pytest.raises(TableError, match=r"manifest\.json: expected the JSON that a run leaves"):
        write_report(copy.folder, copy.evaluation)
