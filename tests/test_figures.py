"""Figures of comparisons: they show the report's numbers, in any style, on any axes, as files."""

import ast
import dataclasses
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from sample_reports import fake_report

import visdiff
from visdiff.errors import InputError
from visdiff.figures.files import figure_files
from visdiff.figures.style import COLUMN, find_style
from visdiff.results import DifferenceReport

HOSTILE = "a $\\frac{1$ <b>&\n日本 _x" + " and a very long sentence" * 20


@pytest.fixture(scope="module")
def report() -> DifferenceReport:
    return fake_report()


def dots(figure: Figure) -> list[Any]:
    return [line for line in figure.axes[0].get_lines() if line.get_marker() == "o"]


def test_the_forest_shows_each_auroc_on_the_side_of_its_set(report: DifferenceReport) -> None:
    drawn = dots(report.plot())
    assert len(drawn) == len(report.differences)
    for line, d in zip(drawn, report.differences, strict=True):
        expected = d.auroc if d.direction == "B" else 1 - d.auroc
        assert line.get_xdata()[0] == pytest.approx(expected, abs=1e-3)
        filled = line.get_markerfacecolor() == line.get_color()
        assert filled == d.confirmed


def test_the_forest_states_how_many_differences_it_leaves_out(report: DifferenceReport) -> None:
    figure = report.plot(most=2)
    assert len(dots(figure)) == 2
    assert f"{len(report.differences) - 2} more" in figure.axes[0].get_xlabel()
    assert not dots(dataclasses.replace(report, differences=()).plot())


def test_scores_are_those_of_the_tested_images(report: DifferenceReport) -> None:
    # The discovery images of the sample have a score of 99.
    axes: Any = report.plot_scores(1).axes[0]
    assert axes.get_xlim()[1] < 1
    assert {t.get_text().split("\n")[-1] for t in axes.texts} == {"n = 70", "n = 68"}
    heights = np.array([bar.get_height() for bar in axes.patches])
    assert heights.max() == 100 or heights.min() == -100
    means = [np.asarray(line.get_xdata())[0] for line in axes.get_lines()[:2]]
    assert means == pytest.approx(
        [report.differences[1].mean_a, report.differences[1].mean_b], 1e-2
    )


def test_the_images_are_the_evidence_of_both_sets(report: DifferenceReport) -> None:
    axes = report.show(0, n=3).axes[0]
    assert len(axes.images) == 6
    texts = {t.get_text() for t in axes.texts}
    names = [*report.differences[0].evidence_a[:3], *report.differences[0].evidence_b[:3]]
    assert {name.rpartition("/")[2] for name in names} <= texts
    kept = {k: v for k, v in report.thumbnails.items() if k.startswith("A/")}
    some = dataclasses.replace(report, thumbnails=kept).show(0, n=3).axes[0]
    assert [t.get_text() for t in some.texts].count("no image") == 3


@pytest.mark.parametrize("style", ["light", "dark"])
def test_figures_fit_a_column_and_have_the_style(report: DifferenceReport, style: Any) -> None:
    for figure in (
        report.plot(style=style),
        report.plot_scores(style=style),
        report.show(style=style),
    ):
        assert figure.get_figwidth() == COLUMN
        assert to_hex(figure.get_facecolor()) == find_style(style).paper


def test_figures_are_drawn_on_given_axes(report: DifferenceReport) -> None:
    figure = Figure(figsize=(9, 3))
    left, right = np.asarray(figure.subfigures(1, 2)).tolist()
    for ax, draw in zip(
        [left.subplots(), *right.subplots(1, 2)], (report.plot, report.plot_scores, report.show),
        strict=True,
    ):  # fmt: skip
        assert draw(ax=ax) is figure
        assert ax.has_data()
    assert len(figure.axes) == 3
    assert tuple(figure.get_size_inches()) == (9, 3)


def test_text_of_users_and_missing_numbers_can_be_drawn(report: DifferenceReport) -> None:
    first = dataclasses.replace(report.differences[0], text=HOSTILE)
    nan = dataclasses.replace(first, auroc=np.nan, ci_low=np.nan, ci_high=np.nan)
    assert report.scores is not None
    odd = dataclasses.replace(
        report,
        differences=(first, nan),
        set_a=dataclasses.replace(report.set_a, name=HOSTILE + "\udce9"),
        scores=report.scores.rename(columns={report.differences[0].text: HOSTILE}),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in (odd.plot(), odd.plot_scores(), odd.show()):
            assert figure_files(figure, "odd", ["svg"])["odd.svg"].startswith(b"<?xml")
    assert len(dots(odd.plot())) == 1


def test_files_are_equal_for_equal_figures_and_embed_their_fonts(report: DifferenceReport) -> None:
    files, again = (figure_files(report.plot(), "forest") for _ in range(2))
    assert files == again
    assert set(files) == {"forest.svg", "forest.pdf"}
    assert b"/FontFile2" in files["forest.pdf"]
    assert b"/Type3" not in files["forest.pdf"]
    with pytest.raises(InputError, match="format of figures such as svg"):
        figure_files(report.plot(), "forest", ["nonsense"])


def test_what_cannot_be_drawn_is_an_error(report: DifferenceReport) -> None:
    read = DifferenceReport.from_json(report.to_json())
    assert len(dots(read.plot())) == len(report.differences)
    for draw, missing in ((read.plot_scores, "scores"), (read.show, "images")):
        with pytest.raises(InputError, match=f"{missing} of 'a red shape .* read from JSON"):
            draw()
        with pytest.raises(InputError, match="one of 6 differences, from 0, got 6"):
            draw(6)
    with pytest.raises(InputError, match=r"a style \(light, dark\), got 'pink'"):
        report.plot(style="pink")


def test_figures_load_no_pyplot() -> None:
    code = (
        "import sys\n"
        "from visdiff.results import DifferenceReport, Separability, SetCard\n"
        "cards = [SetCard(n, n, 1, 0, 1) for n in 'AB']\n"
        "DifferenceReport('none', (), (), Separability(), *cards).plot()\n"
        "assert 'matplotlib.figure' in sys.modules\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_no_module_loads_matplotlib_before_it_draws() -> None:
    root = Path(visdiff.__file__).parents[1]
    for file in [*root.glob("visdiff/**/*.py"), *root.glob("editing/**/*.py")]:
        text = file.read_text("utf-8")
        at_import = [node for node in ast.parse(text).body if "matplotlib" in text]
        for node in at_import:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [getattr(node, "module", ""), *(alias.name for alias in node.names)]
                assert not any(str(n).split(".")[0] == "matplotlib" for n in names), file
