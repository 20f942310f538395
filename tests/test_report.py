"""The renderings: facts about their content, never full pages."""

import base64
import dataclasses
import html.parser
import io
import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sample_reports import BRIGHTER, FOUND, drawing, fake_report

from visdiff.errors import InputError
from visdiff.report import figures
from visdiff.report.collect import collect
from visdiff.report.folder import write_folder
from visdiff.report.html import FRAGMENT_ROWS, render_fragment, render_html
from visdiff.report.markdown import escape, render_markdown
from visdiff.report.text import auroc_text, mean_text, p_text
from visdiff.results import (
    Difference,
    DifferenceReport,
    NullRun,
    Provenance,
    Rejected,
    Separability,
    SetCard,
)

EVIL = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg onload=alert(1)>",
    "{{ 7*7 }} | `x` | <b>bold</b> & ]](javascript:alert(1))",
]


def nothing_found() -> DifferenceReport:
    report = fake_report()
    weak = tuple(dataclasses.replace(d, confirmed=False) for d in report.differences[4:])
    return dataclasses.replace(
        report,
        verdict="no difference found",
        differences=weak,
        separability=Separability(0.54, None),
        warnings=(),
    )


def double_dipped() -> DifferenceReport:
    report = fake_report()
    return dataclasses.replace(
        report,
        verdict="too few images to confirm anything",
        differences=tuple(dataclasses.replace(d, confirmed=False) for d in report.differences),
        double_dipped=True,
    )


class Page(html.parser.HTMLParser):
    """Tags, attributes and text of a page, and whether every element is closed in order."""

    VOID = frozenset({"meta", "img", "link", "br", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


@pytest.fixture(scope="module")
def report() -> DifferenceReport:
    return fake_report()


@pytest.fixture(scope="module")
def page(report) -> Page:
    return Page(render_html(report))


# The page


def test_page_is_well_formed(report, page):
    assert render_html(report).startswith("<!doctype html>")
    assert page.open == []
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    targets = [str(a["href"])[1:] for a in page.all("a")]
    assert targets
    assert set(targets) <= set(ids)


def test_page_has_all_content_in_order(page):
    words = page.words
    facts = [
        "4 confirmed differences",
        "Confirmed: 4 of 12 candidate sentences",
        "70 images of night drawings and 68 of day drawings",
        "At a glance",
        "Confirmed differences",
        "a red shape on a dark background",
        "more true of night drawings",
        "0.94",
        "0.90–0.97",
        "2e-14",
        "Clearest examples from night drawings",
        "dark night scenes",
        "Not confirmed",
        "a grainy texture",
        "not confirmed",
        "0.19",
        "How much is explained",
        "0.98",
        "0.91",
        "they explain most of it",
        "1 / 20",
        "Pre-flight",
        "also in day drawings, byte for byte",
        "Brightness alone",
        "truncated file",
        "The sets",
        "data/night",
        "group_name = night",
        "Rejected candidates (2)",
        "AUROC 0.53 is below 0.55",
        "Provenance",
        "miniature/clip",
        "Configuration",
        "rank.min_auroc",
    ]
    position = 0
    for fact in facts:
        found = words.find(fact, position)
        assert found >= 0, f"{fact!r} is missing or too early"
        position = found
    for text, *_ in FOUND:
        assert text in words


def test_preflight_warnings_appear_once():
    found = dict(fake_report().preflight)
    found["warnings"] = [BRIGHTER]
    report = fake_report(preflight=found, warnings=(BRIGHTER, "3 images were left out."))
    assert render_markdown(report).count(BRIGHTER) == 1
    assert "3 images were left out." in render_markdown(report)
    assert "pre-flight section has 1 warning" in render_markdown(report)
    found["warnings"] = []
    assert "pre-flight section has" not in render_markdown(fake_report(preflight=found))


def test_page_makes_no_network_request(report, page):
    text = render_html(report)
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base"}
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in {"src", "href", "srcset", "xlink:href"}:
                assert str(value).startswith(("data:image/", "#"))
    assert "@import" not in text
    assert "url(" not in text
    policy = next(a["content"] for a in page.all("meta") if "http-equiv" in a)
    assert "default-src 'none'" in str(policy)


def test_page_embeds_the_thumbnails(report, page):
    images = page.all("img")
    assert len(images) == 6 * 6 * 2  # differences, images per set, sets
    first = report.differences[0]
    data = base64.b64decode(str(images[0]["src"]).removeprefix("data:image/png;base64,"))
    assert data == report.thumbnails[f"A/{first.evidence_a[0]}"]
    assert images[0]["alt"] == report.captions[f"A/{first.evidence_a[0]}"]
    assert images[0]["class"] == "pixelated"


def test_large_thumbnails_are_smoothed():
    buffer = io.BytesIO()
    Image.new("RGB", (200, 150)).save(buffer, "PNG")
    report = fake_report()
    key = f"A/{report.differences[0].evidence_a[0]}"
    page = Page(render_html(dataclasses.replace(report, thumbnails={key: buffer.getvalue()})))
    assert len(page.all("img")) >= 1
    assert all(image.get("class") is None for image in page.all("img"))


def test_confirmed_dots_are_filled_and_the_others_hollow_and_marked(page):
    classes = [a.get("class") for a in page.all("circle")]
    assert classes == ["filled"] * 4 + ["hollow"] * 2
    assert len(page.all("article")) == 4
    marked = [a for a in page.all("details") if a.get("class") == "card unconfirmed"]
    assert len(marked) == 2
    assert page.words.count("not confirmed") >= 2


def test_unconfirmed_cards_open_when_there_is_nothing_else():
    page = Page(render_html(nothing_found()))
    assert not page.all("article")
    assert all("open" in a for a in page.all("details") if a.get("class") == "card unconfirmed")


def test_no_difference_found_reports_the_minimum_detectable_auroc():
    for text in (
        render_html(nothing_found()),
        render_markdown(nothing_found()),
        render_fragment(nothing_found()),
    ):
        words = " ".join(text.split())
        assert "No difference found" in words
        assert "its test detects an AUROC of 0.62 or more" in words
        assert "power of proposing and testing together is lower" in words
        assert "70 images of night drawings and 68 of day drawings" in words
        assert "filled" not in [a.get("class") for a in Page(text).all("circle")]


def test_no_difference_at_all():
    report = dataclasses.replace(
        nothing_found(), differences=(), rejected=(), null=None, preflight={}, config={}
    )
    words = Page(render_html(report)).words
    assert "No difference found" in words
    assert "At a glance" not in words
    assert "Pre-flight" not in words
    assert "hardly different" in words


def test_sets_that_differ_without_a_confirmed_sentence():
    report = dataclasses.replace(nothing_found(), separability=Separability(0.97, None))
    assert "no tested sentence describes" in Page(render_html(report)).words


def test_double_dipping_is_stated():
    for text in (
        render_html(double_dipped()),
        render_markdown(double_dipped()),
        render_fragment(double_dipped()),
    ):
        words = " ".join(text.split())
        assert "the same images were used to propose these sentences and to test them" in words
        assert "nothing is confirmed" in words
        assert "held-out images" not in words


def test_missing_numbers_scores_thumbnails_and_captions():
    nan = math.nan
    d = Difference(
        "odd", "A", nan, nan, nan, nan, nan, False, nan, nan, 0, 0, 9, evidence_a=("gone.png",)
    )
    report = fake_report(
        differences=(d,),
        scores=None,
        thumbnails={},
        captions={},
        separability=Separability(nan, None),
    )
    page = Page(render_html(report))
    assert not re.search(r"\bnan\b", page.words, re.IGNORECASE)
    assert not page.all("circle")
    assert "gone.png" in page.words
    assert "was not measured" in page.words
    assert "–" in render_markdown(report)
    assert not re.search(r"\bnan\b", render_markdown(report), re.IGNORECASE)


# Hostile text


def hostile(evil: str) -> DifferenceReport:
    """Returns a report with the same text in every field that users or models can fill."""
    png = drawing("circle", "red", "white", np.random.default_rng(0))
    d = dataclasses.replace(
        fake_report().differences[0],
        text=evil,
        synonyms=(evil,),
        evidence_a=(evil, "no thumbnail" + evil),
        evidence_b=(evil,),
        proposer=evil,
    )
    card = SetCard(evil, evil, 9, 4, 5, 1, {evil: evil})
    return fake_report(
        verdict=evil,
        differences=(d, dataclasses.replace(d, confirmed=False)),
        rejected=(Rejected(evil, "A", evil),),
        set_a=card,
        set_b=card,
        paired_by=(evil,),
        warnings=(evil,),
        preflight={
            "unreadable_a": [(evil, evil)],
            "cross_duplicates": [(evil, evil)],
            "confounds": [{"name": evil, "auroc": 0.9, "flagged": True, "sentence": evil}],
        },
        config={evil: {evil: [evil]}},
        provenance=Provenance(
            {evil: evil},
            {evil: {evil: evil}},
            {evil: evil},
            0,
            evil,
            {evil: 1},
            {evil: 1},
            created=evil,
        ),
        scores=pd.DataFrame(
            {"set": ["A", "B"], "id": [evil, evil], "half": ["scoring"] * 2, evil: [0.1, 0.2]}
        ),
        thumbnails={f"A/{evil}": png, f"B/{evil}": png},
        captions={f"A/{evil}": evil, f"B/{evil}": evil},
    )


@pytest.mark.parametrize("evil", EVIL)
@pytest.mark.parametrize("render", [render_html, render_fragment, lambda r: r._repr_html_()])
def test_user_text_is_only_ever_text_in_html(evil, render):
    plain, attacked = Page(render(hostile("harmless"))), Page(render(hostile(evil)))
    # The same elements with the same attributes, whatever the text says.
    assert [(tag, sorted(a)) for tag, a in attacked.tags] == [
        (tag, sorted(a)) for tag, a in plain.tags
    ]
    assert attacked.open == []
    assert evil in attacked.text


@pytest.mark.parametrize(
    "evil", [*EVIL, "two\nlines\r\n\n# heading", "| a | b |\n|---|---|", "[x](http://e)", "~~~"]
)
def test_user_text_is_only_ever_text_in_markdown(evil):
    plain, attacked = render_markdown(hostile("harmless")), render_markdown(hostile(evil))
    assert not re.search(r"<\s*/?\s*[a-zA-Z!]", attacked)
    # As many lines, headings and table cells as with harmless text.
    assert len(attacked.splitlines()) == len(plain.splitlines())
    cells = [len(re.findall(r"(?<!\\)\|", line)) for line in attacked.splitlines()]
    assert cells == [len(re.findall(r"(?<!\\)\|", line)) for line in plain.splitlines()]
    assert re.sub(r"\s+", " ", escape(evil)).strip() in attacked


def test_markdown_escape_loses_nothing():
    assert escape("a|b") == "a\\|b"
    assert escape("a\\|b") == "a\\\\\\|b"
    assert escape("<b>&amp;") == "&lt;b&gt;&amp;amp;"
    assert escape(" a\n b ") == "a b"


# Other formats


def test_fragment_is_small_and_not_a_page(report):
    text = render_fragment(report)
    assert "<html" not in text
    assert "<style" not in text
    assert "<img" not in text
    assert "4 confirmed differences" in text
    assert "a red shape on a dark background" in text
    assert Page(text).open == []
    assert len(text) < 8_000
    assert not [a for _, a in Page(text).tags if "id" in a or "class" in a]


def test_fragment_of_many_differences_stays_short(report):
    many = dataclasses.replace(report, differences=report.differences * 10)
    assert len(Page(render_fragment(many)).all("tr")) == FRAGMENT_ROWS + 1
    assert f"and {60 - FRAGMENT_ROWS} more" in render_fragment(many)


def test_fragment_never_reads_images_or_scores(report):
    class Unreadable(dict):
        def get(self, *_):
            raise AssertionError("a notebook cell must not load thumbnails")

    assert render_fragment(dataclasses.replace(report, thumbnails=Unreadable(), scores=None))


def test_markdown_has_a_row_for_every_difference(report):
    text = render_markdown(report)
    assert text.startswith("# 4 confirmed differences\n")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    for number, (sentence, *_) in enumerate(FOUND, 1):
        row = next(r for r in rows if r.startswith(f"| {number} |"))
        assert sentence in row
        assert ("not confirmed" in row) == (number > 4)
    assert "also: dark night scenes; shapes in red" in text
    assert "AUROC 0.53 is below 0.55" in text


def test_methods_of_the_report_render_it(report, tmp_path):
    assert report.to_html() == render_html(report)
    assert report.to_markdown() == render_markdown(report)
    assert report._repr_html_() == render_fragment(report)
    assert report.save(tmp_path / "deep" / "er") == tmp_path / "deep" / "er"
    assert (tmp_path / "deep" / "er" / "report.html").exists()


def test_folder_contains_the_report_in_all_formats(report, tmp_path):
    folder = write_folder(report, tmp_path)
    names = {
        "forest.pdf",
        "forest.svg",
        "report.html",
        "report.json",
        "report.md",
        "differences.csv",
        "scores.parquet",
    }
    assert {p.name for p in folder.iterdir()} == names
    links = {a["href"] for a in Page((folder / "report.html").read_text("utf-8")).all("a")}
    assert names - {"report.html"} <= links
    assert DifferenceReport.from_json((folder / "report.json").read_text("utf-8")) == report
    table = pd.read_csv(folder / "differences.csv")
    assert list(table["text"]) == [d.text for d in report.differences]
    assert table.loc[0, "auroc"] == report.differences[0].auroc
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "scores.parquet"), report.scores)


def test_folder_is_replaced_without_stale_files(report, tmp_path):
    write_folder(report, tmp_path)
    (tmp_path / "mine.txt").write_text("kept")
    write_folder(dataclasses.replace(report, verdict="other", scores=None), tmp_path, figures=())
    assert json.loads((tmp_path / "report.json").read_text("utf-8"))["verdict"] == "other"
    # These belonged to the earlier report.
    assert not any((tmp_path / n).exists() for n in ("scores.parquet", "forest.svg"))
    assert (tmp_path / "mine.txt").read_text() == "kept"
    assert not list(tmp_path.glob(".*"))


def test_folder_keeps_the_old_report_when_writing_fails(report, tmp_path, monkeypatch):
    write_folder(report, tmp_path)
    before = (tmp_path / "report.json").read_bytes()

    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fails)
    with pytest.raises(InputError, match="No space left"):
        write_folder(dataclasses.replace(report, verdict="other"), tmp_path)
    assert (tmp_path / "report.json").read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_folder_that_cannot_be_written_is_an_input_error(report, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for directory in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="folder that can be written to"):
            write_folder(report, directory)


def test_folder_supports_file_names_that_are_not_utf8(report, tmp_path):
    name = "caf\udce9.png"
    d = dataclasses.replace(report.differences[0], evidence_a=(name,))
    scores = pd.DataFrame(
        {"set": ["A", "B"], "id": [name, "b"], "half": "scoring", d.text: [0.5, 0.1]}, dtype=object
    )
    odd = dataclasses.replace(report, differences=(d,), scores=scores)
    write_folder(odd, tmp_path)
    assert DifferenceReport.from_json((tmp_path / "report.json").read_text("utf-8")) == odd
    assert "caf" in pd.read_parquet(tmp_path / "scores.parquet").loc[0, "id"]


# Geometry


def test_forest_axis_has_a_on_the_left_and_is_mirrored():
    assert figures.signed_position(1.0, "A") == 0
    assert figures.signed_position(1.0, "B") == 100
    assert figures.signed_position(0.5, "A") == figures.signed_position(0.5, "B") == 50
    assert figures.signed_position(0.8, "A") == pytest.approx(100 - 80)
    assert figures.signed_position(math.nan, "A") is None


@pytest.mark.parametrize("direction", ["A", "B"])
def test_forest_interval_surrounds_its_dot(direction):
    row = figures.forest_row(0.58, 0.48, 0.67, direction)
    left, x, right = (row[k] or math.nan for k in ("left", "x", "right"))
    assert left < x < right
    assert left < 50 < right  # the interval contains 0.5, so it crosses the middle line
    assert figures.forest_row(0.6, None, 0.7, direction)["left"] is None


def test_histogram_counts_every_score_once():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=300), rng.normal(2, 1, 41)
    h = figures.histogram(a, np.append(b, [np.nan, np.inf]))
    assert h is not None
    assert (h["low"], h["high"]) == (min(a.min(), b.min()), max(a.max(), b.max()))
    share = [sum(bar["height"] for bar in h[side]) for side in "ab"]
    assert share[0] == pytest.approx(share[1], rel=0.01)  # each set sums to one, whatever its size
    assert max(bar["height"] for side in "ab" for bar in h[side]) == 100
    assert h["mean_a"] < h["mean_b"]


@pytest.mark.parametrize("scores", [([], [1.0]), ([np.nan], [1.0])])
def test_histogram_needs_both_sets(scores):
    assert figures.histogram(*scores) is None


@pytest.mark.parametrize("value", [0.0, 1.0, -3e6])
def test_histogram_of_equal_scores(value):
    h = figures.histogram([value] * 3, [value] * 5)
    assert h is not None
    assert (len(h["a"]), len(h["b"])) == (1, 1)
    assert h["mean_a"] == h["mean_b"] == pytest.approx(50)


def test_histograms_exclude_the_discovery_half(report):
    for d in collect(report)["differences"]:
        assert d["histogram"]["high"] < 1  # the discovery images score 99
    both = report.scores.assign(half="both")
    assert (
        collect(dataclasses.replace(report, scores=both))["differences"][0]["histogram"]["high"]
        == 99
    )


# Text


def test_number_formats():
    assert [p_text(p) for p in (0.0, 2.4e-14, 0.0009, 0.0312, 0.412, None, math.nan)] == [
        "< 1e-300",
        "2e-14",
        "9e-4",
        "0.031",
        "0.41",
        "–",
        "–",
    ]
    assert [auroc_text(v) for v in (0.906, 1.0, None)] == ["0.91", "1.00", "–"]
    assert [mean_text(v) for v in (-0.123456, 0.24, 228.9)] == ["−0.123", "0.240", "229"]
    assert mean_text(math.inf) == "–"


def test_collected_dict_is_plain(report):
    assert json.loads(json.dumps(collect(report), allow_nan=False))


@pytest.mark.parametrize(
    ("images", "sentences", "phrase"),
    [
        (0.98, 0.97, "practically all of it"),
        (0.98, 0.85, "most of it"),
        (0.98, 0.70, "part of it"),
        (0.98, 0.52, "little of it"),
        (0.55, 0.60, "hardly different"),
        (0.80, 0.75, "clearly different"),
        (0.65, 0.63, "somewhat different"),
    ],
)
def test_separability_in_words(report, images, sentences, phrase):
    changed = dataclasses.replace(report, separability=Separability(images, sentences))
    assert phrase in collect(changed)["separability"]["explanation"]


def test_shuffled_runs_that_confirm_nothing(report):
    changed = dataclasses.replace(report, null=NullRun(10, 0, (0,) * 10))
    assert "none of these runs confirmed anything" in collect(changed)["null"]["sentence"]
