"""The HTML report: self-contained, complete, and safe against what a model writes."""

import re
from html.parser import HTMLParser

from kbit.cli.plots import panels
from kbit.cli.report import Report, render
from kbit.cli.tradeoff import Row, recommend


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def _page(demo_rows: list[Row], best_text: str = "Once upon a time.") -> str:
    rows = tuple(demo_rows)
    chosen = recommend(rows)
    return render(
        Report(
            model="quill",
            rows=rows,
            chosen=chosen,
            panels=panels(rows, chosen),
            prompt="Once",
            whole_text="Once more.\n\nAnd again.",
            best_text=best_text,
            caption="The caption.",
            facts={"torch": "2.13"},
            command="kbit demo",
        )
    )


def test_has_a_line_for_every_row_and_both_charts(demo_rows: list[Row]) -> None:
    tags = _Tags()
    tags.feed(_page(demo_rows))
    assert tags.tags.count("figure") == 4  # two charts, two texts
    assert tags.tags.count("svg") == 4  # each chart clips its curves by an inner one
    text = " ".join(tags.text)
    for row in demo_rows:
        assert row.scheme in text
    for words in ("The caption.", "2.13", "kbit demo", recommend(demo_rows).reason, "And again."):
        assert words in text


def test_needs_nothing_from_outside(demo_rows: list[Row]) -> None:
    page = _page(demo_rows)
    tags = _Tags()
    tags.feed(page)
    assert not {"script", "link", "img", "iframe", "object"} & set(tags.tags)
    assert not re.search(r"url\(|@import|src=", page)
    assert set(re.findall(r"https?://[^\"' ]+", page)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in page
    assert 'name="viewport"' in page


def test_what_a_model_writes_is_text_only(demo_rows: list[Row]) -> None:
    page = _page(demo_rows, "Once <script>alert(1)</script> & more")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in page
