"""Recipes on rendered scenes of the miniature's world, with the bundled CLIP and classifier."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from visdiff import miniature
from visdiff.cache import Cache
from visdiff.config import Config
from visdiff.engine import Runtime
from visdiff.errors import InputError
from visdiff.imageset import ImageSet
from visdiff.miniature import world
from visdiff.miniature.render import Art
from visdiff.recipes.classifier_failures import classifier_failures
from visdiff.recipes.classifiers import predict
from visdiff.recipes.clip_vs_resnet import clip_vs_resnet
from visdiff.recipes.generators import generators
from visdiff.recipes.imagenet_v2 import imagenet_v2
from visdiff.recipes.memorability import memorability
from visdiff.recipes.run import RecipeReport

ART = Path(__file__).parents[1] / ".art"
CLASSES = ("dog", "church", "cat", "pizza", "rocket", "guitar")
# Captions come from the manifest: the recipes and the bundled CLIP are tested, not the captioner.
CONFIG = Config.of("miniature").changed(captioner="manifest")

pytestmark = [
    pytest.mark.skipif(
        not (ART / "node_modules").is_dir() or not miniature.available(),
        reason="the art packages or the bundled weights are missing: make art",
    ),
    pytest.mark.slow,
]

Draw = Callable[..., Path]


@pytest.fixture(scope="module")
def draw(tmp_path_factory: pytest.TempPathFactory) -> Draw:
    """Renders scenes into class directories, with a manifest of their true attributes."""
    art = Art.load(ART)

    def render(scenes: list[world.Scene], seed: int, **columns: Any) -> Path:
        folder = tmp_path_factory.mktemp("scenes")
        rng = np.random.default_rng(seed)
        rows = []
        for i, scene in enumerate(scenes):
            path = folder / scene.subject / f"{i:04d}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(art.render(scene, rng)).save(path)
            rows.append(
                {
                    "path": str(path.relative_to(folder)),
                    "label": scene.subject,
                    "place": scene.place,
                    "caption": world.full_caption(scene),
                }
            )
        frame = pd.DataFrame(rows).assign(**columns)
        frame.to_csv(folder / "manifest.csv", index=False)
        return folder / "manifest.csv"

    return render


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with Cache(tmp_path_factory.mktemp("cache")) as cache:
        yield {"cache": cache, "progress": False, "config": CONFIG}


def scenes(n: int, seed: int, places: Mapping[str, float]) -> list[world.Scene]:
    rng = np.random.default_rng(seed)
    names, shares = list(places), list(places.values())
    return [
        world.sample_scene(
            rng,
            subject=CLASSES[i % len(CLASSES)],
            second="",
            style="noto",
            place=str(rng.choice(names, p=shares)),
        )
        for i in range(n)
    ]


def confirms(report: RecipeReport, direction: str, words: tuple[str, ...]) -> bool:
    overall = report.overall
    assert overall is not None
    return any(
        d.direction == direction and any(w in t for w in words for t in (d.text, *d.synonyms))
        for d in overall.confirmed
    )


def test_a_recollected_data_set(draw: Draw, settings: dict[str, Any]) -> None:
    a = draw(scenes(180, 1, {"snow": 0.9, "grass": 0.1}), 1)
    b = draw(scenes(180, 2, {"snow": 0.1, "grass": 0.9}), 2)
    report = imagenet_v2(a, b, class_column="label", per_class=True, **settings)
    assert confirms(report, "A", ("snow",))
    assert confirms(report, "B", ("grass",))
    assert len(report.many.reports) == 1 + len(CLASSES)
    check = report.heldout["variant", "original"]
    assert check.accuracy is not None
    assert check.ci_low is not None
    assert check.ci_low > 0.5


def test_the_miniatures_clip_against_its_classifier(draw: Draw, settings: dict[str, Any]) -> None:
    manifest = draw(scenes(240, 3, {"snow": 0.5, "grass": 0.5}), 3)
    images = ImageSet.open(manifest)
    truth = images.frame["label"].to_numpy(dtype=str)
    clip = predict("open_clip:miniature", images, truth, template="a {}", **_models(settings))
    trained = predict("miniature", images, truth, **_models(settings))
    for predicted in (clip, trained):
        assert (predicted == truth).mean() > 0.6  # far above one class in six
        assert (predicted != "").all()
    assert set(clip) <= set(CLASSES)
    again = predict("miniature", images, truth, **_models(settings))
    assert (again == trained).all()
    with pytest.raises(InputError, match="classes that miniature knows"):
        predict("miniature", images, np.array(["unicorn"] * len(images)), **_models(settings))

    # One classifier fails on snow, and the report says so.
    frame = images.frame
    snowy = frame["place"] == "snow"
    wrong = np.where(snowy & (np.arange(len(frame)) % 10 != 0), "nothing", trained)
    frame["path"] = [str(images.path(i)) for i in range(len(images))]
    frame["resnet"] = wrong
    report = clip_vs_resnet(
        frame, "open_clip:miniature", "resnet", class_column="label", template="a {}", **settings
    )
    assert confirms(report, "A", ("snow",))
    assert confirms(report, "B", ("grass",))
    assert any("open_clip:miniature is right on" in n for n in report.notes)


def test_a_classifier_that_fails_on_one_place(draw: Draw, settings: dict[str, Any]) -> None:
    manifest = draw(scenes(240, 5, {"brick wall": 0.4, "grass": 0.6}), 5)
    images = ImageSet.open(manifest)
    frame = images.frame
    frame["path"] = [str(images.path(i)) for i in range(len(images))]
    truth = frame["label"].to_numpy(dtype=str)
    predicted = predict("miniature", images, truth, **_models(settings))
    frame["corrupted"] = np.where(frame["place"] == "brick wall", "nothing", predicted)
    report = classifier_failures(frame, ["corrupted"], class_column="label", by="place", **settings)
    assert confirms(report, "A", ("brick", "wall"))
    assert confirms(report, "B", ("grass",))
    check = report.heldout["wrong", "right"]
    assert check.accuracy is not None
    assert check.ci_low is not None
    assert check.majority is not None
    assert check.accuracy > check.majority
    # All predictions on the wall are wrong, so this place cannot be a slice; it is reported.
    assert ("wrong: brick wall", "right: brick wall") not in report.many.reports
    assert any("slices have fewer than 2 images" in n for n in report.notes)


def test_two_generators_on_the_same_prompts(draw: Draw, settings: dict[str, Any]) -> None:
    sampled = scenes(160, 6, {"snow": 0.5, "grass": 0.5})
    prompts = [f"{s.subject}/{s.place} {i // 2}" for i, s in enumerate(sampled)]
    a = draw([replace(s, style="blueprint") for s in sampled], 6, prompt=prompts)
    b = draw(sampled, 7, prompt=prompts)
    for folder in (a.parent, b.parent):
        assert (folder / "manifest.csv").is_file()
    report = generators(a.parent, b.parent, **settings)
    assert confirms(report, "A", ("blueprint",))
    assert not confirms(report, "A", ("snow", "grass"))  # the same places, pair by pair
    overall = report.overall
    assert overall is not None
    assert overall.paired_by == ("prompt", "image_of_prompt")


def test_a_score_that_a_place_moves(draw: Draw, settings: dict[str, Any]) -> None:
    sampled = scenes(320, 8, {"sunset": 0.5, "snow": 0.5})
    noise = np.random.default_rng(8).normal(0, 0.4, len(sampled))
    scores = np.array([s.place == "sunset" for s in sampled]) + noise
    report = memorability(draw(sampled, 8, score=scores), "score", **settings)
    assert confirms(report, "A", ("sunset",))
    assert confirms(report, "B", ("snow",))
    check = report.heldout["high score", "low score"]
    assert check.ci_low is not None
    assert check.ci_low > 0.5


def _models(settings: dict[str, Any]) -> dict[str, Any]:
    return {"runtime": Runtime(settings["cache"]), "device": "cpu"}
