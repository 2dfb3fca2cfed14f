"""A report as tests read it: text, tags, the data of scripts, and tables by row and column."""

from html.parser import HTMLParser

from sonobench.report.page import page

VOID = {"meta", "link", "br", "img", "input"}


class Page(HTMLParser):
    """Text, attributes and nesting of a page; refuses tags that do not close in order."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.texts, self.data = [], [], [], {}
        self.tables = []  # words of each cell of each row; the first row is the caption
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "caption":
            self.tables.append([[[]]])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append([])

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
            if {"th", "td", "caption"} & set(self.open):
                self.tables[-1][-1][-1] += data.split()

    def table(self, caption):
        """Rows of the only table whose caption begins so, its headings first."""
        tables = [[[" ".join(cell) for cell in row] for row in table] for table in self.tables]
        [found] = [rows for [[told], *rows] in tables if told.startswith(caption)]
        return found

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def written(run):
    return page(run.material())
