"""All pages together: order, links, size, contrast, and their layout in a browser."""

import dataclasses
import io
import itertools
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from browser import AXE, CHROMIUM, measure
from PIL import Image
from sample_reports import fake_report, sample_audit, sample_revivals, sample_subject
from test_report import EVIL, Page

from editing.audits.page import SECTIONS
from visdiff.config import Config
from visdiff.report.images import SIDE, data_uri, thumbnail
from visdiff.report.settings import command_of, used_settings
from visdiff.report.templating import MAX_PAGE
from visdiff.results.many import ManyReport

MAX_HEIGHT = 4000
"""Longest audit of one request when it opens at a width of 1280 CSS pixels."""


@pytest.fixture(scope="module")
def audit_page() -> Page:
    return Page(sample_audit().to_html())


def noise() -> bytes:
    """Returns the largest thumbnail: an image that does not compress."""
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    return thumbnail(Image.fromarray(pixels))


# The audit


def test_sections_follow_the_readers_questions(audit_page: Page) -> None:
    sections = [a["id"] for a in audit_page.all("section") if "id" in a]
    assert sections == ["asked", "how-much", "else", "groups", "next", "origin"]
    assert len(sections) == len(SECTIONS) - 2  # no subject is taught, no revival was tested
    assert audit_page.open == []


def test_every_link_of_the_audit_has_a_target(audit_page: Page) -> None:
    ids = [str(a["id"]) for _, a in audit_page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    local = [str(a["href"])[1:] for a in audit_page.all("a") if str(a["href"]).startswith("#")]
    assert set(local) <= set(ids)
    groups = {i for i in ids if i.startswith("group-")}
    assert len(groups) == len(sample_audit().groups)
    assert groups <= set(local)  # each bar links to its group


def test_groups_are_collapsed_and_pairs_are_labelled(audit_page: Page) -> None:
    assert not [a for a in audit_page.all("details") if "open" in a]
    alternatives = [str(a["alt"]) for a in audit_page.all("img")]
    sides = Counter(text.partition(":")[0] for text in alternatives)
    assert sides["original"] == sides["edited"] == len(alternatives) // 2
    assert "Seed: 100" in audit_page.words
    assert "Score of the sentence: 0.210 before, 0.300 after" in audit_page.words


def test_side_effects_are_ranked_by_size_and_appear_once() -> None:
    report = sample_audit()
    sizes = [e.difference.auroc for e in report.effects]
    assert sizes == sorted(sizes, reverse=True)
    texts = [e.difference.text for e in report.effects]
    assert len(texts) == len(set(texts)) < sum(len(e.found) for e in report.effects)
    # The larger of two groups is first.
    assert "a pale sky: more often (things, neighbours)" in [e.sentence for e in report.effects]
    assert f"; {len(texts)} things changed besides" in report.verdict
    words = Page(report.to_html()).words
    assert f"The 3 largest of {len(texts)} side effects" in words
    assert f"named by {len(texts) + 1} confirmed sentences" in words
    assert "the same as a pale sky: more often (things)" in words


def test_the_longest_bar_fits_or_is_marked_as_cut() -> None:
    report = sample_audit()

    def bars(value: float) -> tuple[list[float], str]:
        moved = report.groups[0].drift
        assert moved is not None
        first = dataclasses.replace(
            report.groups[0], drift=dataclasses.replace(moved, value=value, high=value + 0.1)
        )
        page = Page(dataclasses.replace(report, groups=(first, *report.groups[1:])).to_html())
        widths = [str(a["style"]) for a in page.all("i") if "style" in a]
        return [float(w.removeprefix("width: ").removesuffix("%")) for w in widths], page.words

    widths, words = bars(2.2)
    assert widths[0] == max(widths) < 100
    assert "are cut" not in words
    widths, words = bars(9.0)
    assert widths[0] == 100
    assert "are cut" in words


def test_terms_are_explained_where_they_stand(audit_page: Page) -> None:
    assert len(audit_page.all("dfn")) == 3
    for text in ("distance between the two images of a pair", "seed noise", "false findings"):
        assert text in audit_page.words


def test_an_unknown_result_is_not_a_clean_one() -> None:
    words = Page(sample_audit(outcomes=()).to_html()).words
    assert "was not measured" in words
    assert "done" not in words.split("How much changed")[0].replace("not done", "")


@pytest.mark.parametrize("evil", EVIL)
def test_text_in_an_audit_is_only_ever_text(evil: str) -> None:
    def attacked(text: str) -> Page:
        base = sample_audit()
        first = base.groups[2]
        d = dataclasses.replace(first.confirmed[0], text=text)
        pair = dataclasses.replace(first.pairs[""][0], prompt=text, seed=text)
        group = dataclasses.replace(
            first,
            prompts=(text,),
            by_concept={text: 0.9},
            metrics={text: 1.0},
            report=dataclasses.replace(first.report, differences=(d,)),
            pairs={text: (pair,), "": (pair,)},
        )
        return Page(
            dataclasses.replace(
                base, groups=(*base.groups[:2], group), about={"method": text, "base": text},
                warnings=(text,), command=text, config={text: text},
            ).to_html()
        )  # fmt: skip

    plain, page = attacked("harmless"), attacked(evil)
    assert [(tag, sorted(a)) for tag, a in page.tags] == [(t, sorted(a)) for t, a in plain.tags]
    assert page.open == []
    assert evil in page.text


def test_the_table_of_an_audit_has_all_differences() -> None:
    report = sample_audit()
    frame = report.to_frame()
    assert len(frame) == sum(len(g.report.differences) for g in report.groups)
    assert set(frame["group"]) == {g.name for g in report.groups if g.report.differences}
    assert sample_audit(groups=()).to_frame().empty


def test_a_notebook_shows_the_verdict_and_one_row_per_group() -> None:
    report = sample_audit()
    page = Page(report._repr_html_())
    assert report.verdict in page.words
    assert len(page.all("tr")) == 1 + len(report.groups)
    assert "a castle with a flag: less often" in page.words
    assert page.words.count("a pale sky") == 1


# Size


def test_pages_stay_below_their_limit_and_state_what_is_missing() -> None:
    large = noise()
    sample = sample_audit(image=large)
    audit = dataclasses.replace(sample, groups=sample.groups * 2).to_html()
    plain = fake_report()
    compared = dataclasses.replace(
        plain,
        differences=plain.differences * 3,
        thumbnails=dict.fromkeys(plain.thumbnails, large),
    ).to_html()
    for page in (audit, compared):
        assert len(page.encode()) <= MAX_PAGE
        assert "To keep this page" in page
        assert "<img" in page
    assert "To keep this page" not in plain.to_html() + sample_audit().to_html()


def test_photographs_become_small_and_drawings_stay_exact() -> None:
    photo = Image.effect_mandelbrot((600, 400), (-2, -1.5, 1, 1.5), 50).convert("RGB")
    assert len(thumbnail(photo.copy())) < 30_000
    drawing = Image.new("RGB", (64, 64), "#123456")
    assert Image.open(io.BytesIO(thumbnail(drawing.copy()))).getpixel((3, 3)) == (18, 52, 86)
    assert data_uri(b"<svg onload=alert(1)>") is None


# What makes it again


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"seed": 7, "statistics__alpha": 0.01, "paired_by": ("prompt", "seed")},
        {"ranker": "captions-lexical", "proposer": "ngrams", "rounds": "auto"},
        {"llm__model": "a 'quoted' model", "verify": "vqa"},
    ],
)
def test_the_derived_command_gives_the_same_configuration(changes: dict, tmp_path: Path) -> None:
    config = Config.of("laptop").changed(**changes)
    plain = fake_report()
    report = dataclasses.replace(
        plain,
        config=config.model_dump(mode="json"),
        set_a=dataclasses.replace(plain.set_a, source=str(tmp_path)),
        set_b=dataclasses.replace(plain.set_b, source=str(tmp_path)),
    )
    words = shlex.split(command_of(report))
    assert words[:4] == ["visdiff", "compare", str(tmp_path), str(tmp_path)]
    assert words[words.index("--where-a") + 1] == "group_name=night"
    settings = dict(w.split("=", 1) for o, w in itertools.pairwise(words) if o == "--set")
    preset = words[words.index("--preset") + 1]
    assert Config.of(preset).with_set(settings) == config


def test_a_command_that_was_run_is_kept_and_none_is_made_up() -> None:
    plain = fake_report()
    assert command_of(plain) == ""  # its folders do not exist
    made = dataclasses.replace(plain.provenance, command="visdiff compare A B --root C")
    assert command_of(dataclasses.replace(plain, provenance=made)) == made.command


def test_unused_parts_of_the_configuration_are_left_out_by_name() -> None:
    config = Config.of("laptop").model_dump(mode="json")
    used, omitted = used_settings(config)
    assert {"llm", "engine", "verify"} <= set(omitted)
    assert {"seed", "captioner", "ranker"} <= set(used)
    assert {**{name: config[name] for name in omitted}, **used} == config
    assert "llm" in used_settings(Config.of("laptop").changed(llm__model="m").model_dump())[0]


# The comparison


def test_the_worst_finding_of_the_preflight_is_on_top_in_the_direction_of_the_table() -> None:
    found = dict(fake_report().preflight)
    found["warnings"] = ["one", "two"]
    page = Page(fake_report(preflight=found).to_html())
    top, _, rest = page.words.partition("At a glance")
    assert "B is brighter: AUROC 0.97" in top
    assert "2 warnings" in top
    assert "brightnessB0.97" in rest
    assert "0.03" not in rest.partition("Pre-flight")[2].partition("The sets")[0]


def test_the_filter_has_every_difference() -> None:
    page = Page(fake_report().to_html())
    sides = Counter(str(a["data-side"]) for _, a in page.tags if "data-side" in a)
    assert sides == {"A": 2 * 3, "B": 2 * 3}  # a row and a card each
    assert [a["id"] for a in page.all("input")] == ["show-both", "show-a", "show-b"]
    css = (resources.files("visdiff.report") / "templates" / "page.css").read_text("utf-8")
    assert all(f"#show-{side}:checked" in css for side in "ab")


def test_images_have_captions_and_file_names() -> None:
    page = fake_report().to_html()
    for name in ("night", "day"):
        assert page.count(f'<p class="file" title="{name}/') == 36


# Contrast and layout


def themes() -> Iterator[dict[str, str]]:
    css = (resources.files("visdiff.report") / "templates" / "page.css").read_text("utf-8")
    light, dark = re.findall(r":root \{([^}]*--paper[^}]*)\}", css)
    for theme in (light, dark):
        yield dict(re.findall(r"--([\w-]+): (#\w+)", theme))


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_colours_have_the_contrast_of_wcag_aa() -> None:
    """At least 4.5 on every background that text is on."""
    for theme in themes():
        for text in ("ink", "muted", "a", "b", "good"):
            for ground in ("paper", "card", "soft"):
                high, low = sorted((luminance(theme[text]), luminance(theme[ground])), reverse=True)
                assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)
        high, low = sorted((luminance(theme["ink"]), luminance(theme["warn"])), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_layout_and_accessibility_in_a_browser(tmp_path: Path, dark: bool) -> None:
    """Nothing scrolls sideways on a phone, the audit is short, and axe-core finds no violation."""
    report, audit = fake_report(), sample_audit()
    one_request = dataclasses.replace(
        audit, requests=audit.requests[:1], outcomes=audit.outcomes[:1]
    )
    many = ManyReport(
        "three sets", ("night", "day", "dusk"),
        dict.fromkeys((("night", "day"), ("night", "dusk"), ("day", "dusk")), report),
        {}, 36,
    )  # fmt: skip
    further = dataclasses.replace(
        audit, groups=audit.groups[:1], subjects=(sample_subject(),), revivals=sample_revivals()
    )
    pages = {
        "audit": (390, audit.to_html(tmp_path)),
        # What is collapsed is not checked.
        "subject and revival": (
            390,
            further.to_html(tmp_path).replace("<details", "<details open"),
        ),
        "comparison": (390, report.to_html()),
        "many": (390, many.to_html()),
    }
    if not dark:
        pages["audit, wide"] = (1280, one_request.to_html(tmp_path))
    found = measure(pages, tmp_path, dark=dark)
    assert set(found) == set(pages)
    for name, values in found.items():
        assert values["width"] == pages[name][0]
        assert values["dark"] is dark
        assert values["scrollWidth"] <= values["width"], name
        assert values["checked"] is AXE.is_file()
        assert values["violations"] == [], name
    if not dark:
        assert found["audit, wide"]["height"] <= MAX_HEIGHT
