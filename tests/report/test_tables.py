"""Tables for papers and for the terminal."""

import io
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from rich.console import Console

from sonobench.report import summary
from sonobench.report.text_formats import escape_latex, escape_markdown
from sonobench.report.write import write_tables


@pytest.fixture(scope="session")
def tables(plain_page):
    return plain_page.parent / "tables"


@pytest.fixture(scope="session")
def hostile_tables(hostile_page):
    return hostile_page.parent / "tables"


def estimate(
    run, encoder, evaluation="in_domain", images="all", metric="macro_f1", adaptation=None
):
    """A row of the results: of the linear probe or the majority class, if not told otherwise."""
    rows = run.evaluation.results
    adaptation = adaptation or ("majority_class" if encoder == "none" else "linear_probe")
    [row] = rows[
        (rows["encoder"] == encoder)
        & (rows["adaptation"] == adaptation)
        & (rows["aggregate"] == "mean_of_folds")
        & (rows["subgroup"] == "all")
        & (rows["calibration"] == "none")
        & (rows["evaluation"] == evaluation)
        & (rows["label_space"] == "open")
        & (rows["images"] == images)
        & (rows["metric"] == metric)
    ].itertuples()
    return row


def markdown_rows(text):
    return [
        re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")
    ]


def printed(run, width):
    console = Console(width=width, file=io.StringIO())
    console.print(summary(run.folder, run.evaluation))
    return console.file.getvalue()


@pytest.mark.parametrize("name", ["main.md", "per_class.md"])
def test_every_markdown_row_has_as_many_cells_as_its_header(tables, hostile_tables, name):
    for folder in (tables, hostile_tables):
        for part in (folder / name).read_text().split("\n\n"):
            assert len({len(row) for row in markdown_rows(part)}) <= 1


def test_markdown_shows_number_interval_and_size(plain_run, tables):
    header, _, first, *_ = markdown_rows((tables / "main.md").read_text())
    row = estimate(plain_run, "net", adaptation="full_finetune")
    assert header[2].strip() == (
        f"in-domain ({row.n_images} images, {row.n_patients} patients): macro F1"
    )
    assert [cell.strip() for cell in first[:3]] == [
        "net",
        "full fine-tuning",
        f"**{row.estimate:.3f}** [{row.ci_low:.3f}, {row.ci_high:.3f}]",
    ]


def test_models_come_by_descending_in_domain_macro_f1_with_the_controls_among_them(
    plain_run, tables
):
    rows = markdown_rows((tables / "main.md").read_text())[2:]
    names = [row[0].strip() for row in rows]
    assert names == [
        "net",
        "net",
        r"net\_b",
        r"pixel\_stats (control)",
        "random:net (control)",
        "majority class (control)",
        "absent",
    ]
    numbers = [float(re.search(r"\d\.\d+", row[2])[0]) for row in rows[:-1]]
    assert numbers == sorted(numbers, reverse=True)


def test_controls_are_never_bold(plain_run, tables):
    for row in markdown_rows((tables / "main.md").read_text())[2:]:
        if "(control)" in row[0]:
            assert "**" not in "".join(row)


def test_distinct_images_have_a_column_where_there_are_duplicates(plain_run, tables):
    header = markdown_rows((tables / "main.md").read_text())[0]
    # Abroad 12 patient ids, which are 11 patients, have 3, 4, 4 images in turn; two are identical.
    distinct = [cell for cell in header if "43 distinct" in cell]
    assert len(distinct) == 2  # open and closed label space
    assert all("abroad (44 images, 11 patients)" in cell for cell in distinct)


def test_per_class_tables_hold_the_declared_classes_of_each_evaluation(plain_run, tables):
    home, abroad = (tables / "per_class.md").read_text().split("\n**")
    assert [c.split(": ")[1].strip() for c in markdown_rows(home)[0][2:]] == [
        "brain",
        "femur",
        "other",
    ]
    assert len(markdown_rows(abroad)[0]) == 2 + 2
    of = {(row[0].strip(), row[1].strip()): row for row in markdown_rows(home)}
    femur = estimate(plain_run, "net", metric="f1[femur]")
    shown = of["net", "linear probe"][3].strip().replace("*", "")
    assert shown == f"{femur.estimate:.3f} [{femur.ci_low:.3f}, {femur.ci_high:.3f}]"


@pytest.mark.parametrize("name", ["main.tex", "per_class.tex"])
def test_latex_is_balanced_and_has_equal_columns(tables, hostile_tables, name):
    for folder in (tables, hostile_tables):
        text = (folder / name).read_text()
        bare = re.sub(r"\\[{}]", "", text)
        assert bare.count("{") == bare.count("}")
        for environment in ("table", "tabular"):
            assert text.count(rf"\begin{{{environment}}}") == text.count(rf"\end{{{environment}}}")
        for tabular in re.findall(r"\\begin\{tabular\}.*?\\end\{tabular\}", text, re.DOTALL):
            columns = len(re.match(r"\\begin\{tabular\}\{(\w+)\}", tabular)[1])
            for line in tabular.splitlines():
                if line.endswith(r" \\"):
                    spans = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", line))
                    assert len(re.findall(r"(?<!\\)&", line)) + 1 + spans == columns


def test_latex_leaves_no_special_character_of_a_label_unescaped(hostile_tables):
    text = (hostile_tables / "per_class.tex").read_text()
    assert r"50 \% \& a\_b \textbar{} c {[}d{]} \$e\$ {*}f{*}" in text
    assert r"\{\{ 7 {*} 7 \}\} \{\% raw \%\} \#1 \textasciitilde{}\textasciicircum{}" in text
    assert r"\textless{}script\textgreater{}alert(1)" in text
    # A row must not begin with what \\ would take as its argument.
    assert not re.search(r"\\\\\s*[\[*]", text)


def test_hyphens_of_an_option_are_no_dash_in_latex():
    assert escape_latex("--accept-licence") == "-{}-accept-licence"


def test_escaped_text_stays_on_one_line():
    assert escape_latex("a\n\nb") == escape_markdown("a\n\nb") == "a b"


def test_the_terminal_table_fits_in_a_hundred_columns_and_holds_the_numbers(plain_run):
    text = printed(plain_run, 100)
    assert max(map(len, text.splitlines())) <= 100
    for encoder in ("net_b", "pixel_stats", "random:net", "none"):
        for evaluation in ("in_domain", "abroad"):
            row = estimate(plain_run, encoder, evaluation)
            assert f"{row.estimate:.3f}" in text
            assert f"[{row.ci_low:.3f}, {row.ci_high:.3f}]" in text
    assert "absent has no numbers: its weights are not at hand" in " ".join(text.split())
    assert "home: Home is small." in text


def test_a_narrow_terminal_drops_secondary_columns_and_says_which(plain_run):
    text = " ".join(printed(plain_run, 70).split())
    assert "weighted F1" not in text.split("in brackets")[0]
    assert re.search(r"not shown for want of width, but in tables/main\.md: weighted F1", text)


def test_a_wide_terminal_shows_every_column(plain_run):
    text = printed(plain_run, 200)
    assert "not shown" not in text
    assert f"{estimate(plain_run, 'net', metric='weighted_f1').estimate:.3f}" in text


def test_markup_in_labels_is_printed_as_it_stands(hostile_run):
    text = printed(hostile_run, 200)
    assert "[second] | encoder" in text


def test_doubtful_encoders_carry_a_sign_and_its_meaning(doubtful_run):
    text = printed(doubtful_run, 100)
    assert "net‡" in text
    assert "‡ the weights look random" in text
    assert "net_b¶" in text
    assert "¶ the solver did not finish a chosen probe" in text


def test_intervals_that_cannot_be_trusted_carry_a_sign(plain_run):
    results = plain_run.evaluation.results.copy()
    results.loc[results["evaluation"] == "abroad", "reliable"] = False
    run = replace(plain_run, evaluation=replace(plain_run.evaluation, results=results))
    text = printed(run, 100)
    assert f"{estimate(plain_run, 'net', 'abroad').estimate:.3f}†" in text
    assert f"{estimate(plain_run, 'net').estimate:.3f}†" not in text
    assert "† interval not to be relied on" in text


def test_the_best_of_each_adaptation_is_bold_and_what_it_cannot_be_told_from_is_marked(
    plain_run, tables
):
    pairs = plain_run.evaluation.comparisons
    [pair] = pairs[
        (pairs["kind"] == "pair")
        & (pairs["evaluation"] == "in_domain")
        & (pairs["label_space"] == "open")
        & (pairs["images"] == "all")
        & (pairs["metric"] == "macro_f1")
        & pairs["a"].isin(["net", "net_b"])
        & pairs["b"].isin(["net", "net_b"])
    ].itertuples()
    rows = markdown_rows((tables / "main.md").read_text())
    of = {(row[0].strip(), row[1].strip()): row[2] for row in rows}
    assert "**" in of["net", "full fine-tuning"]
    assert "**" in of["net", "linear probe"]
    assert ("≈" in of[r"net\_b", "linear probe"]) == (pair.p_holm >= 0.05)


@pytest.mark.parametrize(
    ("place", "label_space", "images"),
    [(6, "open", "all"), (9, "closed", "all"), (10, "open", "distinct")],
)
def test_every_reading_says_who_cannot_be_told_from_the_best(
    plain_run, copy_of, place, label_space, images
):
    # Of all pairs the p is 0.9, so that both probes are alike in every column of macro F1.
    copy = copy_of(plain_run)
    pairs = copy.evaluation.comparisons.copy()
    pairs.loc[pairs["kind"] == "pair", "p_holm"] = 0.9
    copy = replace(copy, evaluation=replace(copy.evaluation, comparisons=pairs))
    write_tables(copy.material(), copy.folder / "tables")
    header, _, *rows = markdown_rows((copy.folder / "tables" / "main.md").read_text())
    assert ("closed" in header[place]) == (label_space == "closed")
    assert ("distinct" in header[place]) == (images == "distinct")
    [best, other] = sorted(
        (row[place] for row in rows if row[0].strip() in ("net", r"net\_b") and "probe" in row[1]),
        key=lambda cell: "≈" in cell,
    )
    assert "**" in best
    assert "≈" in other


def test_letters_of_groups_stand_in_the_table(plain_run, tables):
    ranks = plain_run.evaluation.comparisons
    [rank] = ranks[
        (ranks["kind"] == "rank")
        & (ranks["a"] == "net_b")
        & (ranks["evaluation"] == "in_domain")
        & (ranks["label_space"] == "open")
        & (ranks["images"] == "all")
        & (ranks["metric"] == "macro_f1")
    ].itertuples()
    [row] = [r for r in markdown_rows((tables / "main.md").read_text()) if r"net\_b" in r[0]]
    assert row[3].strip() == rank.group


def test_a_model_without_numbers_has_a_row_of_dashes_and_its_reason_below(tables):
    text = (tables / "main.md").read_text()
    assert re.search(r"\| absent \| – \| – \|", text)
    assert "- absent has no numbers: its weights are not at hand" in text
    assert "absent has no numbers: its weights are not at hand" in (tables / "main.tex").read_text()


def test_the_terminal_tells_differences_drops_and_calibration(plain_run):
    text = " ".join(printed(plain_run, 160).split())
    assert "net: full fine-tuning − linear probe" in text
    assert "net − net_b, linear probe" in text or "net_b − net, linear probe" in text
    assert "In-domain minus external macro F1" in text
    assert "Calibration error (ECE)" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex is installed")
@pytest.mark.parametrize("name", ["main.tex", "per_class.tex"])
def test_latex_compiles_as_it_is(tables, hostile_tables, tmp_path, name):
    for folder in (tables, hostile_tables):
        document = (
            r"\documentclass{article}\usepackage{booktabs}\begin{document}"
            + (folder / name).read_text()
            + r"\end{document}"
        )
        (tmp_path / "paper.tex").write_text(document)
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
        made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stdout[-800:]
