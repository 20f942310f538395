"""MiniDiffBench: the planted attributes, their proportions, and their agreement with the judge."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from visdiff.bench import minidiffbench
from visdiff.bench.pairs import NULL
from visdiff.errors import InputError
from visdiff.judges import Claim
from visdiff.judges.world import WorldJudge
from visdiff.miniature import world
from visdiff.miniature.render import Art

ART = Path(__file__).parents[1] / ".art"
PLANS = list(minidiffbench.plans(0))

needs_art = pytest.mark.skipif(
    not (ART / "node_modules").is_dir(), reason="the art packages are missing: make art"
)


def test_numbers_of_pairs() -> None:
    assert Counter(p.split for p in PLANS) == {"easy": 50, "medium": 50, "hard": 50, NULL: 200}
    assert len({p.id for p in PLANS}) == len(PLANS)
    assert all(p.values[0] != p.values[1] for p in PLANS if p.split != NULL)


def test_fewer_pairs_are_a_subset() -> None:
    few = list(minidiffbench.plans(0, pairs=3, null_pairs=4))
    assert few == [p for p in PLANS if p in few]
    assert len(few) == 13


@pytest.mark.parametrize("plan", [p for p in PLANS if p.split != NULL][::7], ids=lambda p: p.id)
def test_exactly_the_share_has_the_sets_own_value(plan: minidiffbench.Plan) -> None:
    field = {"profession": "subject", "art": "style"}.get(plan.attribute, plan.attribute)
    for side in (0, 1):
        sampled = minidiffbench.scenes(plan, side, 40, np.random.default_rng(side))
        values = Counter(getattr(s, field) for s in sampled)
        assert values[plan.values[side]] == round(plan.share * 40)
        assert values[plan.values[1 - side]] == 40 - round(plan.share * 40)


def test_the_judge_scores_the_truth_1_and_its_reverse_0() -> None:
    judge = WorldJudge()
    for plan in PLANS:
        if plan.split == NULL:
            continue
        a, b = (minidiffbench._words(plan.attribute, v) for v in plan.values)
        right, wrong = judge.judge([Claim(a, "A", a, b), Claim(b, "A", a, b)])
        assert (right.score, wrong.score) == (1.0, 0.0), (plan, right, wrong)


def test_a_null_pair_has_one_distribution() -> None:
    for plan in [p for p in PLANS if p.split == NULL][:5]:
        one, two = (
            minidiffbench.scenes(plan, side, 5, np.random.default_rng(3)) for side in (0, 1)
        )
        assert one == two


@pytest.mark.parametrize("split", ["easy", "medium", "hard"])
def test_attributes_are_known_without_rendering(split: str) -> None:
    for plan in [p for p in PLANS if p.split == split][:6]:
        a, b = (minidiffbench.shows(plan, side, seed=5, size=40) for side in (0, 1))
        assert a.sum() == round(plan.share * 40)
        assert b.sum() == 40 - round(plan.share * 40)
    null = next(p for p in PLANS if p.split == NULL)
    with pytest.raises(InputError, match="null pair"):
        minidiffbench.shows(null, 0, seed=5)


@needs_art
def test_attributes_match_the_rendered_scenes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: list[world.Scene] = []
    render = Art.render

    def recording_render(self: Art, scene: world.Scene, rng: np.random.Generator) -> np.ndarray:
        rendered.append(scene)
        return render(self, scene, rng)

    monkeypatch.setattr(Art, "render", recording_render)
    minidiffbench.render(tmp_path, ART, pairs=1, null_pairs=0, size=8, progress=False)
    easy = next(p for p in PLANS if p.id == "easy/00")
    planted = [scene.place == easy.values[0] for scene in rendered[:16]]
    shows = [minidiffbench.shows(easy, side, seed=0, size=8).tolist() for side in (0, 1)]
    assert planted == shows[0] + shows[1]


@needs_art
def test_an_interrupted_rendering_is_resumed(tmp_path: Path) -> None:
    def render(folder: Path, pairs: int) -> dict[str, tuple[bytes, ...]]:
        bench = minidiffbench.render(folder, ART, pairs=pairs, null_pairs=1, size=3, progress=False)
        return {p.id: tuple(f.read_bytes() for f in p.images_a + p.images_b) for p in bench.pairs}

    render(tmp_path / "twice", 1)
    assert render(tmp_path / "twice", 2) == render(tmp_path / "once", 2)
    loaded = minidiffbench.load(tmp_path / "once")
    assert loaded.splits == {"easy": 2, "medium": 2, "hard": 2, NULL: 1}
    loaded.pairs[0].images_a[1].unlink()
    assert minidiffbench.load(tmp_path / "once").missing == ("easy/00/A/001.png",)
    with pytest.raises(InputError, match="another folder"):
        minidiffbench.render(tmp_path / "once", ART, seed=1, size=3, progress=False)


def test_a_folder_without_an_index_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="bench render"):
        minidiffbench.load(tmp_path)
