"""Tests of the second ranker, which cross-checks confirmed differences without changing them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pandas as pd
import pytest
from fakes import place_captions, write_set

import visdiff
from visdiff.cache import Cache
from visdiff.comparison.backends import Backends
from visdiff.comparison.many import compare_many
from visdiff.comparison.plan import plan
from visdiff.comparison.split import open_pair, split_pair
from visdiff.config import Config
from visdiff.config.rankers import VqaConfig
from visdiff.errors import InputError
from visdiff.imageset import ImageSet
from visdiff.rankers import Ranker
from visdiff.results import DifferenceReport, Hypothesis

WORDS: dict[str, Any] = {
    "captioner": "manifest",
    "ranker": "captions-lexical",
    "proposer": {"backend": "manual", "hypotheses": ("by a wall", "on the grass", "a cook")},
    "progress": False,
}


class Contrary(Ranker):
    """A ranker that supports the wall and not the grass, and leaves some images unscored.

    It derives the place from the colour of the image and uses no captions.
    """

    name = "contrary"
    needs_captions = False
    n_unscored = 0

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"ranker": self.name}

    def score(
        self,
        hypotheses: Sequence[Hypothesis],
        images: ImageSet,
        captions: Sequence[str | None] | None = None,
    ) -> np.ndarray:
        red = np.array([np.asarray(image).mean(axis=(0, 1)).argmax() == 0 for image in images])
        noise = np.arange(len(images)) % 7 / 100
        scores = np.array([red + noise if "wall" in h.text else noise for h in hypotheses])
        scores[:, : self.n_unscored] = np.nan
        return scores.astype(np.float32)


class PartlyUnscored(Contrary):
    n_unscored = 4


class Unscored(Contrary):
    n_unscored = 10_000


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    with Cache(tmp_path / "cache") as opened:
        yield opened


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Returns red images of people by a wall, and blue images of people on the grass."""
    folder = tmp_path_factory.mktemp("sets")
    return (
        write_set(folder / "a", place_captions(80, 1, place="by a wall", share=0.9), seed=1,
                  colours=["red"] * 80, prompt=[f"p{i}" for i in range(80)]),
        write_set(folder / "b", place_captions(80, 2, place="on the grass", share=0.9), seed=2,
                  colours=["blue"] * 80, prompt=[f"p{i}" for i in range(80)]),
    )  # fmt: skip


def by_text(report: DifferenceReport) -> dict[str, Any]:
    return {d.text: d for d in report.confirmed}


@pytest.mark.parametrize("paired", [False, True])
def test_agreement_and_disagreement_are_recorded(
    sets: tuple[Path, Path], cache: Cache, paired: bool
) -> None:
    settings = {**WORDS, "paired_by": ("prompt",) if paired else ()}
    alone = visdiff.compare(*sets, **settings, cache=cache)
    report = visdiff.compare(*sets, **settings, verify="test_verify:Contrary", cache=cache)
    found = by_text(report)
    assert set(found) == {"by a wall", "on the grass"}
    wall, grass = found["by a wall"], found["on the grass"]
    assert wall.disputed is False
    assert wall.verify_auroc > 0.95
    assert wall.verify_ci_low > 0.5
    assert grass.disputed is True
    assert grass.verify_ci_low <= 0.5 <= grass.verify_ci_high
    # Unconfirmed differences are not checked; the first ranker's statistics stay unchanged.
    assert all(d.disputed is None for d in report.differences if not d.confirmed)
    for d in report.differences:
        was = next(x for x in alone.differences if (x.text, x.direction) == (d.text, d.direction))
        assert (d.auroc, d.ci_low, d.p_value, d.q_value) == (
            was.auroc, was.ci_low, was.p_value, was.q_value
        )  # fmt: skip
        assert d.confirmed == was.confirmed
    assert any("does not support 1 of 2 confirmed differences: “on the grass”" in w
               for w in report.warnings)  # fmt: skip
    assert report.provenance.models["verify"] == {"ranker": "contrary"}
    assert report.config["verify"]["backend"] == "test_verify:Contrary"
    assert all(d.disputed is None for d in alone.differences)


def test_every_output_marks_disputed_differences(
    sets: tuple[Path, Path], cache: Cache, tmp_path: Path
) -> None:
    report = visdiff.compare(*sets, **WORDS, verify="test_verify:Contrary", cache=cache)
    folder = report.save(tmp_path / "out")
    page = (folder / "report.html").read_text("utf-8")
    assert page.count("second ranker disagrees</span>") == 1
    assert "agrees on 1 and disagrees on 1" in page
    text = (folder / "report.md").read_text("utf-8")
    assert len([line for line in text.splitlines() if "DISAGREES" in line]) == 1
    table = pd.read_csv(folder / "differences.csv").set_index("text")
    assert str(table["disputed"]["on the grass"]) == "True"
    assert str(table["disputed"]["by a wall"]) == "False"
    data = json.loads((folder / "report.json").read_text("utf-8"))
    assert {d["text"]: d["disputed"] for d in data["differences"] if d["confirmed"]} == {
        "by a wall": False,
        "on the grass": True,
    }
    assert DifferenceReport.from_json(json.dumps(data)) == report
    assert "second ranker disagrees" in report._repr_html_()
    # Without a second ranker no output mentions one.
    alone = visdiff.compare(*sets, **WORDS, cache=cache)
    assert "second ranker" not in alone.to_html() + alone.to_markdown() + alone._repr_html_()


def test_reports_of_the_first_schema_still_open(sets: tuple[Path, Path], cache: Cache) -> None:
    report = visdiff.compare(*sets, **WORDS, cache=cache)
    data = json.loads(report.to_json())
    data["schema_version"] = 1
    for difference in data["differences"]:
        for name in [n for n in difference if n.startswith("verify") or n == "disputed"]:
            del difference[name]
    old = DifferenceReport.from_json(json.dumps(data))
    assert old.schema_version == 1
    assert old.differences == report.differences


def test_unscored_differences_are_not_disputed(sets: tuple[Path, Path], cache: Cache) -> None:
    report = visdiff.compare(*sets, **WORDS, verify="test_verify:Unscored", cache=cache)
    n = report.set_a.n_scored + report.set_b.n_scored
    for d in report.confirmed:
        assert (d.disputed, d.verify_auroc, d.verify_n_unscored) == (None, None, n)
    assert any(f"{2 * n} scores of the second ranker" in w for w in report.warnings)
    assert "no score" in report.to_markdown()
    some = visdiff.compare(*sets, **WORDS, verify="test_verify:PartlyUnscored", cache=cache)
    # Four of each set: the ranker scores the sets separately.
    assert {d.verify_n_unscored for d in some.confirmed} == {8}
    assert by_text(some)["by a wall"].disputed is False


def test_captions_are_computed_for_the_second_ranker_only(
    cache: Cache,
) -> None:
    rng = np.random.default_rng(0)
    pictures = [[fakes.picture(c, rng) for _ in range(60)] for c in ("red", "blue")]
    settings = {
        "captioner": "fakes:ColourCaptioner",
        "ranker": "fakes:ColourRanker",
        "proposer": {"backend": "manual", "hypotheses": ("A: a red square", "A: blue")},
        "progress": False,
    }
    fakes.ColourCaptioner.computed = 0
    visdiff.compare(*pictures, **settings, cache=cache)
    assert fakes.ColourCaptioner.computed == 0
    report = visdiff.compare(*pictures, **settings, verify="captions-lexical", cache=cache)
    (found,) = report.confirmed
    assert (found.text, found.disputed) == ("a red square", False)
    assert fakes.ColourCaptioner.computed == report.set_a.n_scored + report.set_b.n_scored
    assert "captioner" in report.provenance.models


def test_many_comparisons_are_checked_after_the_correction(
    sets: tuple[Path, Path], cache: Cache
) -> None:
    two = {"a": sets[0], "b": sets[1]}
    many = compare_many(two, **WORDS, verify="test_verify:Contrary", cache=cache)
    one = visdiff.compare(
        *sets, **WORDS, verify="test_verify:Contrary", name_a="a", name_b="b", cache=cache
    )
    assert many.reports["a", "b"].differences == one.differences
    assert "on the grass (the second ranker disagrees)" in many.to_markdown()


def test_the_second_ranker_must_differ_from_the_first() -> None:
    config = Config.of("miniature").changed(ranker="captions-lexical", verify="captions-lexical")
    with pytest.raises(InputError, match="second ranker that is not the first"):
        Backends.of(config)


def test_the_plan_counts_the_second_ranker(sets: tuple[Path, Path]) -> None:
    config = Config.of("miniature").changed(
        **{k: v for k, v in WORDS.items() if k != "progress"} | {"ranker": "fakes:ColourRanker"},
        llm="fakes:ColourChat",
    )

    def planned(config: Config) -> Any:
        return plan(split_pair(*open_pair(*sets), config), config)

    alone = planned(config)
    assert (alone.paid_calls, alone.captions) == (0, 0)
    with_vqa = planned(config.changed(verify={"backend": "vqa", "model": "llm"}))
    assert with_vqa.paid_calls == with_vqa.hypotheses * with_vqa.scored
    lexical = planned(config.changed(verify="captions-lexical"))
    assert (lexical.paid_calls, lexical.captions) == (0, lexical.scored)


def test_the_configuration_of_a_second_ranker(tmp_path: Path) -> None:
    config = Config.of("miniature").changed(verify={"backend": "vqa", "tile": 64})
    assert isinstance(config.verify, VqaConfig)
    assert (config.verify.backend, config.verify.tile) == ("vqa", 64)
    assert Config.parse(config.to_toml()) == config
    assert Config.parse(Config.of("miniature").to_toml()).verify is None
    config = Config.of("miniature").with_set({"verify.backend": "vqa", "verify.model": "llm"})
    assert isinstance(config.verify, VqaConfig)
    assert config.verify.model == "llm"
    with pytest.raises(InputError, match=r"verify\.modle.*Did you mean 'model'"):
        Config.of("miniature").with_set({"verify.modle": "x"})
