"""Tests of several proposers in one run: one list of hypotheses, one correction."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import pictures, save_open_clip

import visdiff
from visdiff import stats
from visdiff.cache import Cache
from visdiff.comparison.backends import Backends
from visdiff.comparison.plan import plan
from visdiff.comparison.split import open_pair, split_pair
from visdiff.config import Config
from visdiff.errors import InputError
from visdiff.imageset import ImageSet
from visdiff.proposers import Evidence, Proposals, Proposer
from visdiff.proposers.manual import ManualProposer
from visdiff.proposers.several import SeveralProposers
from visdiff.results import Direction, Hypothesis

BANK = ["a red picture", "a dark picture", "blue", "sand", "an animal", "a vehicle"]


class Failing(Proposer):
    """A proposer whose question is never answered."""

    name = "failing"
    needs_captions = True
    max_hypotheses = 4
    calls = 2

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"proposer": "failing"}

    def propose(self, evidence: Evidence, *, rng: np.random.Generator, round: int = 1) -> Proposals:
        return Proposals(refused=(("?", "no words"),), failures=("no answer",))


def evidence() -> Evidence:
    return Evidence(ImageSet.open(pictures(2)), ImageSet.open(pictures(2, 1)))


def test_hypotheses_refusals_and_failures_of_all() -> None:
    first = ManualProposer(["A: a dog", "B: at night"])
    second = ManualProposer(["A: Dogs", "B: a dog", "A: at night", "A: under a night sky"])
    several = SeveralProposers([first, Failing(), second])
    found = several.propose(evidence(), rng=np.random.default_rng(0), round=2)
    # "Dogs" has the words of "a dog", and is dropped; the other direction is another hypothesis.
    expected: list[tuple[Direction, str]] = [
        ("A", "a dog"), ("B", "at night"), ("B", "a dog"), ("A", "at night"),
        ("A", "under a night sky"),
    ]  # fmt: skip
    assert found.hypotheses == tuple(Hypothesis(t, d, "manual", 2) for d, t in expected)
    assert found.refused == (("?", "no words"),)
    assert found.failures == ("no answer",)
    assert several.calls == 2
    assert several.needs_captions
    assert several.max_hypotheses == 1 + 4 + 3


def noise(n: int, level: int, seed: int) -> list[Image.Image]:
    pixels = np.random.default_rng(seed).normal(level, 40, (n, 32, 32, 3)).clip(0, 255)
    return [Image.fromarray(p.astype(np.uint8)) for p in pixels]


def write_set(folder: Path, images: Sequence[Image.Image], captions: Sequence[str]) -> Path:
    folder.mkdir()
    rows = ["path,caption"]
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        image.save(folder / f"{i}.png")
        rows.append(f"{i}.png,{caption}")
    (folder / "set.csv").write_text("\n".join(rows))
    return folder / "set.csv"


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("sets")
    captions = {
        "a": ["a square with a hat"] * 40 + ["a square"] * 20,
        "b": ["a square with a bag"] * 40 + ["a square"] * 20,
    }
    levels = {"a": 80, "b": 170}
    paths = [
        write_set(folder / s, noise(60, levels[s], i), captions[s]) for i, s in enumerate("ab")
    ]
    return paths[0], paths[1]


def test_one_correction_covers_the_hypotheses_of_all_proposers(
    sets: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "bank.txt").write_text("\n".join(BANK))
    clip = str(save_open_clip(tmp_path / "clip"))
    config = Config.of("laptop").changed(
        captioner="manifest",
        ranker={"backend": "clip", "model": clip},
        proposer__bank=str(tmp_path / "bank.txt"),
        device="cpu",
    )
    pair = split_pair(*open_pair(*sets, None, None, None, None), config)
    # Sets this small are cross-fitted: each half proposes.
    assert plan(pair, config).hypotheses == 2 * 2 * (20 + 5)
    with Cache(tmp_path / "cache") as cache:
        report = visdiff.compare(*sets, config=config, cache=cache, progress=False)
    everything = [*report.differences, *report.rejected]
    texts = {t for d in everything for t in (d.text, *getattr(d, "synonyms", ()))}
    assert {"a square with a hat", "a square with a bag"} <= texts
    assert texts & set(BANK)
    assert {d.proposer for d in report.differences} <= {"ngrams", "concepts"}
    # A synonym's p-value is not reported, so the correction is checked where there is none.
    if not any(d.synonyms for d in report.differences):
        q = stats.benjamini_hochberg([d.p_value for d in everything])
        assert [d.q_value for d in everything] == pytest.approx(q.tolist())
    identity = report.provenance.models["proposer"]
    assert [p["proposer"] for p in identity["proposers"]] == ["ngrams", "concepts"]


def test_without_an_image_text_model_concepts_is_left_out_and_the_report_says_so(
    sets: tuple[Path, Path], tmp_path: Path
) -> None:
    with Cache(tmp_path / "cache") as cache:
        report = visdiff.compare(
            *sets, captioner="manifest", ranker="captions-lexical", cache=cache, progress=False
        )
    assert [w for w in report.warnings if "'concepts' was not used" in w]
    assert any("hat" in d.text for d in report.confirmed)


def test_unknown_and_paired_members_are_refused() -> None:
    config = Config.of("miniature")
    with pytest.raises(InputError, match="did you mean 'concepts'"):
        Backends.of(config.changed(proposer="ngrams,conceps"))
    with pytest.raises(InputError, match="Expected paired sets for the proposer 'ngrams,paired-"):
        Backends.of(config.changed(proposer="ngrams,paired-captions-llm", llm__model="m"))
