"""Page and tables are whole where no figure can be drawn as SVG and PDF, and it is said why."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sonobench.report import page
from sonobench.report.charts import draw_static

LINE = {
    "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
    "data": {"values": [{"a": 1, "b": 2}, {"a": 2, "b": 3}]},
    "mark": "line",
    "encoding": {
        "x": {"field": "a", "type": "quantitative"},
        "y": {"field": "b", "type": "quantitative"},
    },
}


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts code in place of vl-convert wherever a process imports it from now on."""

    def put(code: str) -> None:
        folder = tmp_path / "stand-in"
        folder.mkdir()
        (folder / "vl_convert.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(folder), prepend=":")

    return put


@pytest.fixture
def little_address_space() -> Iterator[None]:
    """What `ulimit -v` does, with enough for all but V8, which reserves tens of gigabytes."""
    if sys.platform != "linux":
        pytest.skip("only Linux limits the address space of a process")
    usual = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (4 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, usual[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, usual)


def test_a_chart_is_drawn_as_svg_and_pdf(tmp_path: Path) -> None:
    assert draw_static({"one": LINE, "two": LINE}, tmp_path) == {}
    assert names(tmp_path) == {"one.svg", "one.pdf", "two.svg", "two.pdf"}
    assert (tmp_path / "one.svg").read_bytes().startswith(b"<svg")
    assert (tmp_path / "one.pdf").read_bytes().startswith(b"%PDF")


def test_a_chart_that_cannot_be_drawn_costs_that_chart_alone(tmp_path: Path) -> None:
    missing = draw_static({"wrong": {**LINE, "mark": "no mark"}, "right": LINE}, tmp_path)
    assert list(missing) == ["wrong"]
    assert missing["wrong"].startswith("ValueError: ")
    assert "\n" not in missing["wrong"]
    assert names(tmp_path) == {"right.svg", "right.pdf"}


def test_what_was_drawn_before_the_process_died_is_kept(tmp_path: Path, stand_in) -> None:
    # It dies in the middle of the second chart, after its SVG.
    stand_in(
        "import os, signal\n"
        "drawn = []\n"
        "def vegalite_to_svg(spec):\n"
        "    return '<svg/>'\n"
        "def svg_to_pdf(svg):\n"
        "    drawn.append(svg)\n"
        "    if len(drawn) == 2: os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    return b'%PDF'\n"
    )
    folder = tmp_path / "figures"
    folder.mkdir()
    missing = draw_static({"one": LINE, "two": LINE, "three": LINE}, folder)
    assert list(missing) == ["two", "three"]
    assert set(missing.values()) == {
        "the process that draws them died (Segmentation fault): it said nothing"
    }
    assert names(folder) == {"one.svg", "one.pdf"}


def test_what_vl_convert_prints_is_no_answer(tmp_path: Path, stand_in) -> None:
    stand_in(
        "import os\n"
        "def vegalite_to_svg(spec):\n"
        "    print('a warning')\n"
        "    os.write(1, b'another')\n"
        "    return '<svg/>'\n"
        "def svg_to_pdf(svg):\n"
        "    return b'%PDF'\n"
    )
    folder = tmp_path / "figures"
    folder.mkdir()
    assert draw_static({"one": LINE}, folder) == {}
    assert names(folder) == {"one.svg", "one.pdf"}


def report_without_figures(plain_run, copy_of, plain_page, caplog) -> str:
    """Write a report that must lack every figure and nothing else; returns what was logged."""
    copy = copy_of(plain_run)
    whole = {file: (copy.folder / file).read_bytes() for file in ("report.html", "tables/main.md")}
    figures = sorted({file.stem for file in (copy.folder / "figures").iterdir()})
    assert "forest" in figures
    for file in whole:
        (copy.folder / file).unlink()
    caplog.clear()
    missing = copy.report()
    assert sorted(missing) == figures
    assert {file: (copy.folder / file).read_bytes() for file in whole} == whole
    # Pictures of an earlier report are not of this one.
    assert names(copy.folder / "figures") == set()
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert all(name in record.getMessage() for name in figures)
    assert f"`sonobench report {copy.folder}` draws the figures" in record.getMessage()
    return record.getMessage()


def test_a_report_is_whole_under_a_limit_of_address_space(
    plain_run, plain_page, copy_of, caplog, little_address_space
) -> None:
    message = report_without_figures(plain_run, copy_of, plain_page, caplog)
    assert "the process that draws them died" in message
    assert "Fatal process out of memory" in message
    assert "GB of address space here, see `ulimit -v`" in message


def test_a_report_is_whole_where_vl_convert_does_not_start(
    plain_run, plain_page, copy_of, caplog, stand_in
) -> None:
    stand_in("raise ImportError('GLIBC_2.99 not found')")
    message = report_without_figures(plain_run, copy_of, plain_page, caplog)
    assert "ended with exit status 1: ImportError: GLIBC_2.99 not found" in message


def test_a_report_does_not_load_vl_convert_into_its_own_process() -> None:
    program = "import sys, sonobench.report; sys.exit('vl_convert' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_page_is_whole_but_for_its_charts_where_vl_convert_cannot_be_imported(
    plain_run, plain_page, copy_of, caplog, monkeypatch, stand_in
) -> None:
    copy = copy_of(plain_run)
    before = (copy.folder / "report.html").read_text()
    stand_in("raise ImportError('GLIBC_2.99 not found')")
    page._vega.cache_clear()
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    copy.report()
    after = (copy.folder / "report.html").read_text()
    assert "window.vegaEmbed" in before
    assert "window.vegaEmbed" not in after
    # Tables stand before the scripts and their data.
    content = [text[text.index("<main>") : text.index("</main>")] for text in (before, after)]
    assert content[0] == content[1]
    assert '"missing":"vl-convert, which brings the library of the charts, cannot be used' in after
    assert "The page's charts are missing" in caplog.text
