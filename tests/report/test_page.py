"""The page: whole, without a network, its numbers those of rows, its texts escaped."""

from __future__ import annotations

import re
import string
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastlab.cli import main
from fastlab.reading import texts
from fastlab.report import winner as choice
from fastlab.report.page import FOUND, MARKS, ladder, page, scoreboard
from fastlab.rows import compared
from fastlab.sweeps.reference import FOLDER
from fastlab.sweeps.store import Store
from fastlab.words import printable
from tests.report.test_winner import ROWS, timed
from tests.sweeps.made import ENV, fill, row

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Read(HTMLParser):
    """Tags in order with their attributes, text of each, and that all are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open += [tag] if tag not in VOID else []

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def table(self, caption: str) -> list[list[str]]:
        """The body of the table whose caption begins so, as it is read."""
        text = re.sub(r"\s*\n\s*", "", self.rawdata)
        (found,) = re.findall(f"<caption>{re.escape(caption)}.*?</table>", text)
        lines = re.findall("<tr.*?</tr>", found)
        return [re.findall("<t[hd].*?>(.*?)</t[hd]>", line) for line in lines]


@pytest.fixture(scope="module", params=["xeon-2-threads-smaller", "xeon-2-threads"])
def made(request: pytest.FixtureRequest) -> tuple[Store, str]:
    store = Store(FOLDER / request.param)
    return store, page(store)


def whole(text: str) -> Read:
    """What holds for every page; see the text of each assertion."""
    read = Read(text)
    read.rawdata = text
    names = [tag for tag, _ in read.tags]
    assert len(text.encode()) < 2e6
    assert read.tags[0] == ("html", {"lang": "en"}) and names.count("title") >= 1
    assert not {"script", "link", "img", "iframe", "object", "base"} & {*names}
    assert "http" not in text and "@import" not in text
    levels = [int(name[1]) for name in names if re.fullmatch("h[1-6]", name)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    ids = [own["id"] for _, own in read.tags if "id" in own]
    assert [one for one, n in Counter(ids).items() if n > 1] == []
    for tag, own in read.tags:
        assert not [name for name in own if name.startswith("on")]
        assert (own.get("href") or "#").startswith("#")
        assert tag != "svg" or (
            own["role"] == "img" and len(own["aria-label"] or "") > 20
        )
        assert tag != "th" or own["scope"] == "col"
        scrolls = own.get("class") == "wide" or tag == "pre"
        assert not scrolls or own["tabindex"] == "0"
    assert names.count("table") == names.count("caption")
    return read


def test_a_page_is_whole_and_its_numbers_are_those_of_the_rows(
    made: tuple[Store, str],
) -> None:
    store, text = made
    read = whole(text)
    rows = choice.judged([*store.each(samples=False)], store.envs())
    call = choice.main_call(rows)
    best = choice.winner(call)
    assert best is not None and f"Take {best['recipe']} at " in text
    for caption, part in (
        ("The ladder", ladder(call)[["recipe", *FOUND]]),
        ("measured ms against loss", call[call["loss"].notna()][["recipe", *FOUND]]),
        ("All rows", rows[["recipe", *FOUND]]),
    ):
        head, *lines = read.table(caption)
        shown = texts(part.iloc[:100])
        for name in shown:
            if name.replace("_", " ") in head:
                at = head.index(name.replace("_", " "))
                assert [line[at] for line in lines] == list(shown[name]), name
    marks = text.count("<use ")
    assert marks <= 4 * min(len(rows), MARKS) + 4 * len(call) + 200


def test_the_scoreboard_counts_what_one_would_count() -> None:
    store = Store(FOLDER / "xeon-2-threads-smaller")
    records = [*store.each(samples=False)]
    pairs = [(r.measured, r.estimate) for r in records if r.measured and r.estimate]
    ratios = np.array([m.seconds / e.seconds for m, e in pairs])
    inside = [e.low_s <= m.seconds <= e.high_s for m, e in pairs]
    found = scoreboard(compared(choice.judged(records, {}))).iloc[0]
    assert found["n"] == len(pairs) == 211
    assert found["ratio"] == pytest.approx(np.median(ratios))
    near = np.mean((ratios <= 1.25) & (ratios >= 0.8))
    assert found["% within ×1.25"] == pytest.approx(100 * near)
    assert found["% inside band"] == pytest.approx(100 * np.mean(inside))


def test_each_mark_says_what_its_row_holds(tmp_path: Path) -> None:
    text = page(fill(tmp_path, ROWS))
    titles = [data for tag, data in whole(text).texts if tag == "title"]
    (one,) = {t for t in titles if "recipe: int4-g32" in t and "measured_ms: 4" in t}
    assert one.splitlines()[0] == "int4-g32 prefill" and "loss: 0.500" in one
    assert sum("measured_gain: ×2.00" in title for title in titles) == 1


def test_stages_stand_where_rows_have_them(tmp_path: Path) -> None:
    first = ROWS[0].measured
    assert first is not None
    seconds = {"load": 1.5, "quantize": 0.25, "odd": 3.0}
    rows = [replace(ROWS[0], measured=replace(first, stages=seconds)), *ROWS[1:]]
    head, *lines = whole(page(fill(tmp_path, rows))).table("Seconds before")
    assert head == ["recipe", "load", "quantize", "first call s"]
    assert lines[-1] == ["fp32", "1.50", "0.250", "0.0100"]


@pytest.mark.parametrize(
    "rows",
    [
        [row(1, "oom", reason="no memory"), row(2, "error"), row(3, "error")],
        [row(1)],
        [timed(3)],
        [timed(3, precision="int8"), timed(2, precision="bf16")],
        [timed(3, 0.0, precision="bf16"), timed(2, 0.0, precision="int8")],
    ],
)
def test_a_store_with_little_has_a_page_too(tmp_path: Path, rows: list) -> None:
    read = whole(page(fill(tmp_path, rows)))
    if rows[0].status == "oom":
        assert read.table("Points without a time, 0 lines unread")[1][:3] == [
            "oom",
            "no memory",
            "1",
        ]
        assert "nothing measured: 2 error, 1 oom" in read.rawdata


MARKUP = st.text(string.printable + "é\u202e\x00\x1b", min_size=1, max_size=40)
NASTY = "</title><script>alert(1)</script><!-- ]]> & \" ' $rows ${title} \x1b[2J"


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(MARKUP)
def test_a_text_of_a_stranger_is_a_text(tmp_path_factory, words: str) -> None:
    _injected(tmp_path_factory.mktemp("store"), words, row(1, "error", reason=words))


def test_a_strangers_texts_do_no_harm_beside_figures(tmp_path: Path) -> None:
    rows = [replace(one, device=NASTY, key="") for one in ROWS]
    _injected(tmp_path / "<b>&amp;", NASTY, *rows, row(1, "error", reason=NASTY))


def _injected(folder: Path, words: str, *rows) -> None:
    store = Store(folder)
    with store.begin(ENV | {"command": words, "host": words, "versions": words}):
        for one in rows:
            store.append(one)
    read = whole(page(store))
    plain = [
        replace(one, device="cpu", reason="x" if one.reason else "", key="")
        for one in rows
    ]
    like = whole(page(fill(folder.parent / "plain", plain)))
    assert [tag for tag, _ in read.tags] == [tag for tag, _ in like.tags]
    said = "".join(data for _, data in read.texts)
    assert printable(words).strip() in said


def test_the_command_writes_a_page(tmp_path: Path) -> None:
    fill(tmp_path / "store", ROWS)
    done = CliRunner().invoke(main, ["report", str(tmp_path / "store")])
    assert done.exit_code == 0, done.output
    whole((tmp_path / "store" / "report.html").read_text("utf-8"))
    out = str(tmp_path / "deep" / "a.html")
    args = ["report", str(tmp_path / "store"), "-o", out, "--floor", "0.5"]
    assert CliRunner().invoke(main, args).exit_code == 0
    assert "Take int4-g32 at " in Path(out).read_text("utf-8")
    (tmp_path / "none").mkdir()
    done = CliRunner().invoke(main, ["report", str(tmp_path / "none")])
    assert done.exit_code == 2 and "is no store" in done.output
