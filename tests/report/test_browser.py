"""The page in a browser: everything that its scripts do, on every kind of screen and on paper."""

import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Error, TimeoutError, sync_playwright

# Milliseconds after which the browser hangs. No test passes or fails by how fast a machine is.
HANGS = 600_000
DRAWN = """[...document.querySelectorAll('.chart')].every(
    (chart) => !chart.clientWidth || chart.querySelector('svg, canvas'))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        try:
            # Without a path: the browser that `playwright install chromium` has put there.
            opened = playwright.chromium.launch(
                executable_path=executable,
                args=["--no-sandbox", "--disable-gpu"],
                timeout=HANGS,
            )
        except Error as error:
            pytest.skip(f"no Chromium to open reports with: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


@dataclass
class Visit:
    """A report that was opened, and what went wrong while it was."""

    page: object
    complaints: list = field(default_factory=list)
    requests: list = field(default_factory=list)


def visit(browser, file, **options):
    page = browser.new_page(**{"viewport": {"width": 1200, "height": 900}, **options})
    page.set_default_timeout(HANGS)
    made = Visit(page)
    page.on("console", lambda message: made.complaints.append(message.text))
    page.on("pageerror", lambda error: made.complaints.append(str(error)))
    page.on("request", lambda request: made.requests.append(request.url))

    def refuse(dialog):
        made.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    page.on("dialog", refuse)
    page.goto(file.as_uri())
    page.wait_for_function(DRAWN)
    return made


@pytest.fixture(scope="module")
def opened(browser, plain_page):
    """The plain report on a laptop; a test leaves it as it was found, or reloads it."""
    return visit(browser, plain_page)


@pytest.fixture
def page(opened):
    opened.page.reload()
    opened.page.wait_for_function(DRAWN)
    return opened.page


def column(page, number):
    return page.locator(f"#main-table tbody tr td:nth-child({number})").all_inner_texts()


def first_numbers(texts):
    return [float(re.search(r"\d\.\d+", text)[0]) for text in texts if re.match(r"\d\.\d+", text)]


def test_nothing_is_complained_of_and_nothing_is_fetched(opened):
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.startswith(("file:", "data:"))] == []


def test_a_heading_sorts_its_column_down_then_up(page):
    head = page.locator("#main-table thead tr:nth-child(2) th").first
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    numbers = first_numbers(column(page, 2))
    assert numbers == sorted(numbers, reverse=True)
    head.locator("button").click()
    numbers = first_numbers(column(page, 2))
    assert numbers == sorted(numbers)
    # What has no number stays below.
    assert "absent" in page.locator("#main-table tbody tr").last.inner_text()


def test_intervals_are_sorted_by_where_they_begin(page):
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    page.get_by_role("button", name="Interval").and_(page.locator("#table-pairs button")).click()
    cells = page.locator("#table-pairs tbody td:nth-child(4)").all_inner_texts()
    begins = [float(re.match(r"\[([-+.\d]+)", cell.replace("−", "-"))[1]) for cell in cells]
    assert len(begins) == 12  # six pairs of four encoders, at home and abroad
    assert begins == sorted(begins, reverse=True)


def test_a_filter_leaves_matching_rows_and_says_how_many(page):
    page.locator("[data-filters='main-table']").fill("net_b")
    assert page.locator("#main-table tbody tr:visible").count() == 1
    assert page.locator("[data-counts='main-table']").inner_text() == "1 of 7 rows"


def test_controls_can_be_left_out_of_the_table(page):
    page.locator("[data-controls='main-table']").uncheck()
    assert "pixel_stats" not in page.locator("#main-table").inner_text()


def test_a_mark_tells_its_numbers_when_pointed_at(page):
    mark = page.locator("[data-chart='forest-0'] .mark-symbol path").nth(0)
    tooltip = page.locator("#tooltip:visible")
    for _ in range(HANGS // 500):
        # A chart above that is drawn anew may move the mark away from under the pointer.
        page.mouse.move(0, 0)
        mark.hover(force=True)
        with suppress(TimeoutError):
            tooltip.wait_for(timeout=500)
            break
    text = tooltip.inner_text()
    assert "macro F1" in text
    assert "interval from" in text
    page.keyboard.press("Escape")
    assert page.locator("#tooltip").is_hidden()


def test_a_cell_of_a_confusion_matrix_shows_the_images_behind_it(page):
    cell = page.locator(".matrix button:visible").first
    cell.focus()
    page.keyboard.press("Enter")
    behind = page.locator(".behind:visible").first
    images = int(cell.get_attribute("data-images"))
    # The run has 60 pictures; the page says how many of the cell's images are among them.
    shown = int(re.search(rf"(\d+) of {images} images", behind.inner_text())[1])
    assert cell.get_attribute("aria-pressed") == "true"
    assert behind.locator("img").count() == shown > 0


def test_an_image_tells_what_every_model_said_and_its_nearest_training_images(page):
    opener = page.locator("[data-list='disagreed'] .case").first
    opener.click()
    dialog = page.locator("dialog")
    assert dialog.locator("tbody tr").count() == 6
    assert "Nearest training images" in dialog.inner_text()
    dialog.locator("select").select_option("net_b")
    assert dialog.locator(".pictures .case").count() == 3
    dialog.locator(".pictures .case").first.click()
    assert "A training image" in dialog.inner_text()
    page.keyboard.press("Escape")
    assert dialog.is_hidden()
    assert opener.evaluate("(element) => element === document.activeElement")


def test_the_class_that_a_model_says_is_not_taken_from_rounded_percentages(page):
    said = page.evaluate(
        """() => {
            const first = Object.keys(cases.opinion)[0];
            cases.opinion[first].percent.splice(0, 3, 50, 50, 0);
            cases.opinion[first].predicted[0] = 1;
            return opinion(first, 0).predicted;
        }"""
    )
    assert said == 1


def test_the_images_of_the_diagonal_are_called_recognised(page):
    page.locator(".matrix button[data-true='brain'][data-predicted='brain']:visible").first.click()
    heading = page.locator(".behind h4:visible").first.inner_text()
    assert heading == "net, full fine-tuning: brain, recognised"


def test_a_chosen_model_holds_for_confusions_and_calibration(page):
    page.locator("#confusion + p ~ p select").select_option("net_b, linear probe")
    assert page.locator("[data-of='model'][data-choice='net_b, linear probe']:visible").count() >= 2
    assert page.locator("[data-of='model'][data-choice='net, linear probe']:visible").count() == 0


def test_the_map_is_coloured_as_chosen_and_shows_the_image_pointed_at(page):
    for choice, value in (("#map-colour", "site"), ("#map-encoder", "net_b")):
        page.evaluate("document.querySelector('#map-chart canvas').dataset.before = ''")
        page.locator(choice).select_option(value)
        chart = page.locator("#map-chart canvas:not([data-before])")
        chart.wait_for()
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    steps = [(x / 40, y / 40) for x in range(4, 40) for y in range(2, 34)]
    for x, y in steps:
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        if page.locator("#tooltip").is_visible():
            break
    assert "image" in page.locator("#tooltip").inner_text()


def test_the_button_turns_the_page_and_its_charts_dark(page):
    def background():
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    title = page.locator("[data-chart='forest-0'] .role-axis-title text")
    assert (background(), title.get_attribute("fill")) == ("rgb(255, 255, 255)", "#1b2129")
    page.locator("#theme").click()
    page.locator("[data-chart='forest-0'] .role-axis-title text[fill='#e4e8ec']").wait_for()
    assert background() == "rgb(20, 24, 29)"


def test_what_is_printed_is_light_and_unfolded(browser, plain_page):
    made = visit(browser, plain_page, color_scheme="dark")
    made.page.emulate_media(media="print")
    made.page.locator("[data-chart='forest-0'] .role-axis-title text[fill='#1b2129']").wait_for()
    assert made.page.locator("nav").is_hidden()
    assert made.page.get_by_text("The protocol, every setting").is_visible()
    assert made.page.locator("pre[aria-label='Protocol']").is_visible()
    assert made.page.pdf().startswith(b"%PDF")
    assert made.complaints == []
    made.page.close()


def test_on_a_telephone_only_tables_scroll_sideways(browser, plain_page):
    made = visit(browser, plain_page, viewport={"width": 360, "height": 740})
    assert made.page.evaluate("document.documentElement.scrollWidth") <= 360
    made.page.close()


@pytest.mark.parametrize(
    ("scheme", "options"),
    [
        ("light", {"resultTypes": ["violations"]}),
        ("dark", {"runOnly": ["color-contrast"], "resultTypes": ["violations"]}),
    ],
)
def test_axe_finds_no_serious_violation(browser, plain_page, scheme, options):
    made = visit(browser, plain_page, color_scheme=scheme)
    made.page.locator(".matrix button:visible").first.click()
    made.page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    found = Axe().run(made.page, options=options).response["violations"]
    serious = [
        (violation["id"], violation["nodes"][0]["html"][:200])
        for violation in found
        if violation["impact"] in ("serious", "critical")
    ]
    assert serious == []
    made.page.close()


def test_markup_in_labels_is_text_wherever_scripts_write_it(browser, hostile_page):
    made = visit(browser, hostile_page)
    made.page.locator(".matrix button:visible").first.click()
    made.page.locator("[data-list='disagreed'] .case, #confident .case").first.click()
    text = made.page.locator("dialog").inner_text()
    assert 'net"><img src=x onerror=alert(2)>_&_{1}' in text
    assert "<script>alert(1)</script>" in made.page.locator("#confusion ~ div").first.inner_text()
    assert made.complaints == []
    assert made.page.locator("img[src='x']").count() == 0
    made.page.close()
