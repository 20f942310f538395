"""Recipes on small sets that differ in captions or colours: how sets are formed."""

import itertools
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
from fakes import write_set
from typer.testing import CliRunner

from visdiff.cache import Cache
from visdiff.cli.compare import app
from visdiff.comparison.split import split_pair
from visdiff.config import Config
from visdiff.errors import InputError
from visdiff.imageset import ImageSet
from visdiff.recipes.classifier_failures import classifier_failures
from visdiff.recipes.clip_vs_resnet import clip_vs_resnet
from visdiff.recipes.forming import (
    balance_classes,
    check_sides,
    image_classes,
    make_slices,
    without_duplicates,
)
from visdiff.recipes.generators import generators
from visdiff.recipes.heldout import check, hold_out
from visdiff.recipes.imagenet_v2 import imagenet_v2
from visdiff.recipes.memorability import memorability

WORDS = Config.of("laptop").changed(captioner="manifest", ranker="captions-lexical")
COLOURS = Config.of("laptop").changed(
    captioner="fakes:ColourCaptioner", ranker="fakes:ColourRanker"
)


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[dict[str, Any]]:
    with Cache(tmp_path / "cache") as cache:
        yield {"cache": cache, "progress": False, "config": WORDS}


def colours(folder: Path, by_class: dict[str, tuple[str, int]], seed: int) -> Path:
    """Writes class directories: name → colour and number of images."""
    rng = np.random.default_rng(seed)
    for name, (colour, count) in by_class.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            fakes.picture(colour, rng).save(folder / name / f"{i:03d}.png")
    return folder


def write_people(
    folder: Path, places: Sequence[str], *, seed: int, **columns: Sequence[Any]
) -> Path:
    """Writes images with captions of people at places, and a manifest."""
    people = ("a cook", "a nurse", "a judge", "a clown", "a sailor")
    captions = [f"{people[i % len(people)]} {place}" for i, place in enumerate(places)]
    return write_set(folder, captions, seed=seed, **columns)


def words(report: Any, direction: str) -> str:
    """Returns the texts that the overall report confirms for a set."""
    return "; ".join(
        t for d in report.overall.confirmed if d.direction == direction
        for t in (d.text, *d.synonyms)
    )  # fmt: skip


def test_duplicates_are_left_out_and_counted(tmp_path: Path) -> None:
    a = colours(tmp_path / "a", {"dog": ("red", 6)}, 1)
    b = colours(tmp_path / "b", {"dog": ("red", 5)}, 2)
    shutil.copy(a / "dog" / "000.png", b / "dog" / "same.png")
    shutil.copy(b / "dog" / "001.png", b / "dog" / "copy.png")
    kept_a, kept_b, notes = without_duplicates(ImageSet.open(a), ImageSet.open(b))
    assert (len(kept_a), len(kept_b)) == (5, 5)
    assert not {kept_a.digest(i) for i in range(5)} & {kept_b.digest(i) for i in range(5)}
    assert len(notes) == 2
    assert "1 images are in both a and b" in notes[0]
    assert "1 images of b are copies" in notes[1]


def test_matched_classes_have_the_same_shares(tmp_path: Path) -> None:
    a = colours(tmp_path / "a", {"dog": ("red", 9), "cat": ("red", 3), "owl": ("red", 4)}, 1)
    b = colours(tmp_path / "b", {"dog": ("red", 4), "cat": ("red", 6), "pig": ("red", 2)}, 2)
    sets = ImageSet.open(a), ImageSet.open(b)
    of = image_classes(sets[0]), image_classes(sets[1])
    kept = balance_classes(*sets, *of, np.random.default_rng(0))
    for images in kept[:2]:
        assert sorted(image_classes(images).tolist()) == ["cat"] * 3 + ["dog"] * 4
    assert any("1 classes are in a only" in n and "owl" in n for n in kept[2])
    assert any("1 classes are in b only" in n and "pig" in n for n in kept[2])
    again = balance_classes(*sets, *of, np.random.default_rng(0))
    assert [s.ids for s in again[:2]] == [s.ids for s in kept[:2]]


def test_the_same_multiple_of_every_class_keeps_all(tmp_path: Path) -> None:
    a = colours(tmp_path / "a", {"dog": ("red", 6), "cat": ("red", 4)}, 1)
    b = colours(tmp_path / "b", {"dog": ("red", 3), "cat": ("red", 2)}, 2)
    sets = ImageSet.open(a), ImageSet.open(b)
    rng = np.random.default_rng(0)
    kept_a, kept_b, notes = balance_classes(
        *sets, image_classes(sets[0]), image_classes(sets[1]), rng
    )
    assert (len(kept_a), len(kept_b), notes) == (10, 5, [])


def test_slices_that_are_too_small_are_counted(tmp_path: Path) -> None:
    a = ImageSet.open(colours(tmp_path / "a", {"dog": ("red", 3), "cat": ("red", 1)}, 1))
    b = ImageSet.open(colours(tmp_path / "b", {"dog": ("red", 3), "cat": ("red", 3)}, 2))
    pairs, notes = make_slices(a, b, image_classes(a), image_classes(b))
    assert [(x.name, y.name) for x, y in pairs] == [("a: dog", "b: dog")]
    assert "1 of 2 slices have fewer than 2 images" in notes[0]
    assert "cat" in notes[0]


def test_columns_are_added_and_images_are_kept(tmp_path: Path) -> None:
    images = ImageSet.open(colours(tmp_path / "a", {"dog": ("red", 3)}, 1))
    more = images.with_columns({"n": [1, 2, 3]})
    assert more.frame["n"].tolist() == [1, 2, 3]
    assert more.ids == images.ids
    assert [more.digest(i) for i in range(3)] == [images.digest(i) for i in range(3)]
    in_memory = ImageSet.open([fakes.picture("red", np.random.default_rng(0))])
    assert in_memory.with_columns({"n": [1]}).frame["n"].tolist() == [1]
    with pytest.raises(InputError, match="without a file"):
        image_classes(in_memory)
    with pytest.raises(InputError, match="“right”"):
        check_sides([("right", 0)], "add images")


# Held out -------------------------------------------------------------------------------------


def test_held_out_images_are_not_compared(tmp_path: Path) -> None:
    images = [
        ImageSet.open(colours(tmp_path / n, {"x": ("red", 200)}, i)) for i, n in enumerate("ab")
    ]
    compared, held_out = hold_out(images[0], images[1], 0.25)
    for all_images, one, other in zip(images, compared, held_out, strict=True):
        assert set(one.ids) | set(other.ids) == set(all_images.ids)
        assert not set(one.ids) & set(other.ids)
        assert 30 <= len(other) <= 70
    halves = split_pair(*compared, WORDS.changed(statistics__cross_fit="never")).halves
    assert len(halves.discovery_a) == len(compared[0]) // 2
    unchanged, _ = hold_out(images[0], images[1], 0.0)
    assert unchanged[0].ids == images[0].ids
    with pytest.raises(InputError, match="share of 0 or more"):
        hold_out(images[0], images[1], 1.0)


def test_the_sentences_classify_held_out_images_if_any_was_confirmed(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    a = colours(tmp_path / "a", {"dog": ("red", 150)}, 1)
    b = colours(tmp_path / "b", {"dog": ("blue", 100)}, 2)
    settings["config"] = COLOURS
    report = imagenet_v2(a, b, name_variant="a", name_original="b", **settings)
    found = report.heldout["a", "b"]
    assert found.n_a + found.n_b > 20
    assert found.accuracy == 1.0
    assert found.ci_low is not None
    assert 0.7 < found.ci_low < 1.0 == found.ci_high
    overall = report.overall
    assert overall is not None
    # No held-out image is in the comparison.
    assert overall.set_a.n + found.n_a == 150
    assert overall.set_b.n + found.n_b == 100
    assert any("held-out images to the right set" in w for w in report.many.warnings)

    c = colours(tmp_path / "c", {"dog": ("red", 100)}, 3)
    nothing = imagenet_v2(a, c, **settings).heldout["variant", "original"]
    assert nothing.accuracy is None
    assert not nothing.sentences
    assert "Nothing was confirmed" in nothing.sentence()
    assert not imagenet_v2(a, b, held_out=0, **settings).heldout


def test_check_with_swapped_sets_and_with_unscored_images(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    from visdiff.comparison.backends import Backends
    from visdiff.comparison.compare import compare

    a = ImageSet.open(colours(tmp_path / "a", {"x": ("red", 90)}, 1))
    b = ImageSet.open(colours(tmp_path / "b", {"x": ("blue", 90)}, 2))
    backends = Backends.of(COLOURS, settings["cache"])
    report = compare(a, b, config=COLOURS, cache=settings["cache"], progress=False)
    same = check(report, a, b, backends)
    swapped = check(report, b, a, backends)
    assert (same.accuracy, swapped.accuracy) == (1.0, 0.0)
    (tmp_path / "a" / "x" / "000.png").write_bytes(b"no image")
    damaged = check(report, ImageSet.open(tmp_path / "a"), b, backends)
    assert (damaged.n_unscored, damaged.n_a, damaged.accuracy) == (1, 89, 1.0)
    back = type(report).from_json(report.to_json())
    with pytest.raises(InputError, match="loaded from JSON"):
        check(back, a, b, backends)


# imagenet-v2 ----------------------------------------------------------------------------------


def test_imagenet_v2_overall_and_per_class(tmp_path: Path, settings: dict[str, Any]) -> None:
    # Only the dogs changed their colour; the comparison per class shows this.
    a = colours(tmp_path / "a", {"dog": ("red", 120), "cat": ("green", 120), "owl": ("red", 9)}, 1)
    b = colours(tmp_path / "b", {"dog": ("blue", 120), "cat": ("green", 120)}, 2)
    settings["config"] = COLOURS
    report = imagenet_v2(a, b, per_class=True, name_variant="V2", name_original="val", **settings)
    assert list(report.many.reports) == [
        ("V2", "val"),
        ("V2: cat", "val: cat"),
        ("V2: dog", "val: dog"),
    ]
    assert report.overall is report.many.reports["V2", "val"]
    assert report.overall is not None
    assert report.overall.confirmed
    assert report.many.reports["V2: dog", "val: dog"].confirmed
    assert not report.many.reports["V2: cat", "val: cat"].confirmed
    assert any("1 classes are in V2 only" in n for n in report.notes)
    for r in report.many.reports.values():
        assert any("candidates of 3 comparisons" in w for w in r.warnings)
    folder = report.save(tmp_path / "out")
    data = json.loads((folder / "recipe.json").read_text())
    assert data["recipe"] == "imagenet-v2"
    assert data["notes"] == list(report.notes)
    assert "owl" in (folder / "index.html").read_text()
    assert "owl" in report.to_markdown()


def test_numbered_directories_match_the_sorted_wnids(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    wnids = ("n00000009", "n00000010", "n00000020")
    shades = ("red", "green", "blue")
    a = colours(tmp_path / "a", {str(i): (c, 30) for i, c in enumerate(shades)}, 1)
    b = colours(tmp_path / "b", {w: (c, 30) for w, c in zip(wnids, shades, strict=True)}, 2)
    settings["config"] = COLOURS
    report = imagenet_v2(a, b, per_class=True, **settings)
    assert not report.many.n_confirmed
    assert len(report.many.reports) == 4
    assert not any("only and were left out" in n for n in report.notes)
    shutil.rmtree(a / "1")
    with pytest.raises(InputError, match="class_names"):
        imagenet_v2(a, b, **settings)
    names = {"0": wnids[0], "2": wnids[2]}
    assert imagenet_v2(a, b, class_names=names, **settings).overall is not None
    with pytest.raises(InputError, match="share, got"):
        imagenet_v2(colours(tmp_path / "c", {"elephant": ("red", 5)}, 3), b, **settings)


@pytest.mark.parametrize(
    ("own", "known", "matched"),
    [
        (("LABEL_0", "LABEL_1"), ["cat", "dog"], True),
        (("0", "1"), ["cat", "dog"], True),
        (("tench", "goldfish"), ["n01440764", "n01443537"], True),
        # Other words for the classes, in an order of their own: a guess would be wrong.
        (("Hund", "Katze"), ["cat", "dog"], False),
    ],
)
def test_classes_are_matched_by_order_only_if_they_are_numbered(
    own: tuple[str, ...], known: list[str], matched: bool
) -> None:
    from visdiff.recipes.classifiers import _match_names

    if matched:
        assert _match_names(own, known, {}, "mine") == dict(zip(own, known, strict=True))
        return
    with pytest.raises(InputError, match="set class_names"):
        _match_names(own, known, {}, "mine")


def test_classes_in_a_column(tmp_path: Path, settings: dict[str, Any]) -> None:
    def write(name: str, seed: int, place: str, labels: Sequence[str]) -> Path:
        people = itertools.cycle(("a cook", "a nurse", "a judge"))
        captions = [f"{next(people)} {place}" for _ in labels]
        return write_set(tmp_path / name, captions, seed=seed, label=labels)

    a = write("a", 1, "by a brick wall", ["x", "y"] * 100 + [""] * 5)
    b = write("b", 2, "on the grass", ["x", "y"] * 100)
    report = imagenet_v2(a, b, class_column="label", per_class=True, **settings)
    assert len(report.many.reports) == 3
    assert all(r.confirmed for r in report.many.reports.values())
    assert any("5 of 205 images were left out" in n for n in report.notes)


# clip-vs-resnet -------------------------------------------------------------------------------


@pytest.fixture
def predicted(tmp_path: Path) -> Path:
    """Both are right indoors; only the first is on the grass, only the second at sea."""
    places = ["at home", "on the grass", "at sea"] * 100
    label = ["x", "y"] * 150
    clip = [c if p != "at sea" else "?" for c, p in zip(label, places, strict=True)]
    resnet = [c if p != "on the grass" else "?" for c, p in zip(label, places, strict=True)]
    clip[0] = resnet[4] = ""  # a missing prediction is not a wrong one
    return write_people(tmp_path / "p", places, seed=1, label=label, clip=clip, resnet=resnet)


def test_only_the_first_right_against_both_or_the_reverse(
    predicted: Path, settings: dict[str, Any]
) -> None:
    settings["class_column"] = "label"
    report = clip_vs_resnet(predicted, "clip", "resnet", **settings)
    assert "grass" in words(report, "A")
    assert "home" in words(report, "B")
    assert report.overall is not None
    assert report.overall.set_a.name == "only clip right"
    assert any("2 of 300 images were left out: a prediction" in n for n in report.notes)
    reverse = clip_vs_resnet(predicted, "clip", "resnet", against="reverse", **settings)
    assert "sea" in words(reverse, "B")
    rest = clip_vs_resnet(
        predicted, "clip", "resnet", against="rest", match_classes=True, **settings
    )
    assert rest.overall is not None
    assert "grass" in words(rest, "A")
    sliced = clip_vs_resnet(predicted, "clip", "resnet", per_class=True, **settings)
    assert len(sliced.many.reports) == 3


def test_invalid_classifiers_are_rejected(predicted: Path, settings: dict[str, Any]) -> None:
    settings["class_column"] = "label"
    for pair, wrong in (
        (("clip", "clip"), "clip twice"),
        (("clip", "nothing"), "Expected a column 'nothing'"),
        (("clip", "torchvision:nothing"), "classifier of torchvision"),
        (("clip", "timm:nothing"), "classifier of timm"),
        (("clip", "label"), "got none"),  # right on every image, so set A is empty
    ):
        with pytest.raises(InputError, match=wrong):
            clip_vs_resnet(predicted, *pair, **settings)
    with pytest.raises(InputError, match="names of the classes"):
        clip_vs_resnet(predicted, "clip", "caption", **settings)
    names = {"x": "a cook at home", "y": "a judge at home"}
    assert clip_vs_resnet(predicted, "clip", "resnet", class_names={"z": "w"}, **settings).overall
    with pytest.raises(InputError, match="names of the classes"):
        clip_vs_resnet(
            predicted, "clip", "resnet", class_names=names | {"q": "x", "r": "y"}, **settings
        )


@pytest.mark.parametrize("spec", ["transformers:someone/net", "timm:hf-hub:someone/net"])
def test_the_identity_of_a_hub_classifier_has_its_commit(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    from visdiff.recipes.classifiers import Classifier

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--someone--net"
    (repository / "refs").mkdir(parents=True)
    for commit in ("abc", "def"):
        (repository / "snapshots" / commit).mkdir(parents=True)
        (repository / "snapshots" / commit / "config.json").write_text("{}")
        (repository / "refs" / "main").write_text(commit)
        assert Classifier(spec).identity["revision"] == commit


# classifier-failures --------------------------------------------------------------------------


def test_failures_of_all_classifiers_against_their_successes(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    places = ["at home", "on the grass", "at sea"] * 100
    label = ["x", "y"] * 150
    one = [c if p == "at home" else "?" for c, p in zip(label, places, strict=True)]
    two = [c if p != "on the grass" else "?" for c, p in zip(label, places, strict=True)]
    manifest = write_people(
        tmp_path / "p", places, seed=1, label=label, one=one, two=two, lit=["a"] * 300
    )
    settings["class_column"] = "label"
    report = classifier_failures(manifest, ["one", "two"], per_class=True, by="lit", **settings)
    assert "grass" in words(report, "A")
    assert "home" in words(report, "B")
    assert "sea" not in words(report, "A") + words(report, "B")
    assert any("100 of 300 images were left out: some classifiers" in n for n in report.notes)
    assert any("one is right on 100 of 300" in n for n in report.notes)
    assert len(report.many.reports) == 4
    alone = classifier_failures(manifest, ["one"], match_classes=True, **settings)
    assert alone.overall is not None
    assert not any("some classifiers" in n for n in alone.notes)
    for wrong in ([], ["one", "one"]):
        with pytest.raises(InputError, match="one classifier or several"):
            classifier_failures(manifest, wrong, **settings)


# generators -----------------------------------------------------------------------------------


def write_generated(
    folder: Path, place: str, seed: int, prompts: Sequence[str], **columns: Any
) -> Path:
    return write_people(folder, [place] * len(prompts), seed=seed, prompt=prompts, **columns).parent


def test_generators_pair_by_prompt_and_image(tmp_path: Path, settings: dict[str, Any]) -> None:
    # Prompts with slashes and several images, one in A only, and one with an extra image in B.
    prompts = [f"a cat/dog, 1/{i // 2} ../x" for i in range(160)]
    kind = ["people" if i < 80 else "things" for i in range(160)]
    a = write_generated(
        tmp_path / "a", "by a wall", 1, [*prompts, "only a/"], kind=[*kind, "people"]
    )
    b = write_generated(tmp_path / "b", "on the grass", 2, [*prompts, prompts[0]])
    report = generators(a, b, by="kind", **settings)
    assert report.overall is not None
    assert report.overall.paired_by == ("prompt", "image_of_prompt")
    assert "wall" in words(report, "A")
    assert "grass" in words(report, "B")
    assert any("1 prompts are of first only" in n for n in report.notes)
    assert any("2 images have no partner" in n for n in report.notes)
    assert any("k-th images of a prompt" in n for n in report.notes)
    assert len(report.many.reports) == 3
    # The two images of a prompt are held out together, for both generators.
    check = report.heldout["first", "second"]
    assert check.n_a == check.n_b
    assert check.n_a % 2 == 0
    assert report.overall.set_a.n + check.n_a == 160


def test_generators_with_seeds_and_without_a_manifest(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    prompts = [f"p{i // 2}" for i in range(80)]
    a = write_generated(tmp_path / "a", "by a wall", 1, prompts, number=[i % 2 for i in range(80)])
    b = write_generated(
        tmp_path / "b", "on the grass", 2, prompts, number=[1 - i % 2 for i in range(80)]
    )
    report = generators(a, b, seed="number", held_out=0, **settings)
    assert report.overall is not None
    assert report.overall.paired_by == ("prompt", "number")
    assert report.overall.set_a.n == 80
    assert not report.notes
    with pytest.raises(InputError, match="one manifest with the prompts"):
        generators(colours(tmp_path / "c", {"x": ("red", 3)}, 1), b, **settings)
    with pytest.raises(InputError, match="Expected a column 'Prompt'"):
        generators(a, b, prompt="Prompt", **settings)
    shutil.copy(a / "000.png", b / "000.png")
    # A missing file is one image less, as in every comparison.
    (b / "001.png").unlink()
    same = generators(a, b, **settings)
    assert same.overall is not None
    assert same.overall.set_b.n_unreadable + same.heldout["first", "second"].n_unscored == 1
    assert any("1 pairs are the same image" in n for n in same.notes)


# memorability ---------------------------------------------------------------------------------


def test_the_two_ends_of_a_score(tmp_path: Path, settings: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    scores = np.round(np.linspace(0, 1, 480), 4)
    places = ["by a wall" if rng.random() < s else "on the grass" for s in scores]
    manifest = write_people(
        tmp_path / "m", places, seed=1, score=[*scores[:-1], ""], kind=["a", "b"] * 240
    )
    # The same image with a low and with a high score belongs to neither set.
    shutil.copy(tmp_path / "m" / "470.png", tmp_path / "m" / "003.png")
    report = memorability(manifest, "score", by="kind", **settings)
    assert "wall" in words(report, "A")
    assert "grass" in words(report, "B")
    assert any("1 of 480 images were left out: they have no score" in n for n in report.notes)
    assert any("1 of 479 images are copies" in n and "1 of these" in n for n in report.notes)
    assert len(report.many.reports) == 3
    check = report.heldout["high score", "low score"]
    assert check.accuracy is not None
    assert check.ci_low is not None
    assert check.accuracy > 0.6
    assert report.overall is not None
    assert not report.overall.preflight["cross_duplicates"]
    for changes, wrong in (
        ({"score": "nothing"}, "Expected a column 'nothing'"),
        ({"score": "caption"}, "numbers in the column"),
        ({"score": "score", "low": 0.8, "high": 0.2}, "low <= high"),
    ):
        with pytest.raises(InputError, match=wrong):
            memorability(manifest, **changes, **settings)


def test_equal_scores_are_rejected(tmp_path: Path, settings: dict[str, Any]) -> None:
    manifest = write_people(tmp_path / "m", ["at home"] * 20, seed=1, score=[1] * 20)
    with pytest.raises(InputError, match="scores that differ"):
        memorability(manifest, "score", **settings)


# The command ----------------------------------------------------------------------------------


def run(*arguments: Any) -> Any:
    settings = ("--set", "captioner.backend=manifest", "--set", "ranker.backend=captions-lexical")
    return CliRunner().invoke(app, [*map(str, arguments), *settings, "--cache", "off"])


def test_every_recipe_has_a_command(predicted: Path, tmp_path: Path) -> None:
    assert set(CliRunner().invoke(app, ["--help"]).stdout.split()) >= {
        "imagenet-v2",
        "clip-vs-resnet",
        "classifier-failures",
        "generators",
        "memorability",
    }
    done = run(
        *("clip-vs-resnet", predicted, "--first", "clip", "--second", "resnet"),
        *("--class-column", "label", "--json", "--out", tmp_path / "out"),
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["recipe"] == "clip-vs-resnet"
    assert (tmp_path / "out" / "recipe.json").is_file()
    failures = run(
        "classifier-failures", predicted, "--classifier", "clip", "--class-column", "label"
    )
    assert failures.exit_code == 0, failures.output
    assert "held-out images" in failures.output
    prompts = [f"p{i}" for i in range(100)]
    a = write_generated(tmp_path / "a", "by a wall", 1, prompts, score=range(100))
    b = write_generated(tmp_path / "b", "on the grass", 2, prompts)
    for arguments in (
        ("generators", a, b, "--name", "x", "--name", "y"),
        ("memorability", a / "manifest.csv", "score", "--held-out", "0"),
    ):
        result = run(*arguments)
        assert result.exit_code == 0, result.output
    (tmp_path / "taken" / "many.json").mkdir(parents=True)
    arguments = ("memorability", a / "manifest.csv", "score", "--out", tmp_path / "taken")
    unsaved = run(*arguments)
    assert isinstance(unsaved.exception, InputError)
    assert "memorability: " in unsaved.stdout
    rows = [("imagenet-v2", a / "manifest.csv", b / "manifest.csv", "--class-column", "caption")]
    rows += [("generators", a, b, "--name", "x")]
    for arguments in rows:
        assert isinstance(run(*arguments).exception, InputError)


# Plans ----------------------------------------------------------------------------------------


def dry_run(*arguments: Any) -> dict[str, Any]:
    ran = CliRunner().invoke(app, [*map(str, arguments), "--dry-run", "--json"])
    assert ran.exit_code == 0, ran.output
    return json.loads(ran.stdout)


LEXICAL = ("--set", "captioner.backend=manifest", "--set", "ranker.backend=captions-lexical")
ASKING = ("--set", "captioner.backend=manifest", "--set", "ranker.backend=captions-llm",
          "--set", "llm.backend=fakes:ColourChat", "--set", "llm.prompt_price=1",
          "--set", "llm.completion_price=2")  # fmt: skip


def test_a_dry_run_matches_the_counts_of_the_run(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fakes.ColourChat, "asked", 0)
    places = ["by a wall", "on the grass"] * 120
    manifest = write_people(
        tmp_path / "m", places, seed=1, score=list(range(240)), kind=["a", "b"] * 120
    )
    plan = dry_run("memorability", manifest, "score", "--slice-by", "kind", *LEXICAL)
    report = memorability(manifest, "score", by="kind", **settings)
    assert plan["comparisons"] == len(report.many.reports) == 3
    held_out = sum(h.n_a + h.n_b + h.n_unscored for h in report.heldout.values())
    scored = sum(r.set_a.n_scored + r.set_b.n_scored for r in report.many.reports.values())
    assert plan["scored"] == scored + held_out
    # Every image is in the overall comparison and in a slice, and captioned once.
    assert plan["captions"] == plan["images"] == 120
    assert (plan["paid_calls"], plan["cost"]) == (0, None)
    asked = dry_run("memorability", manifest, "score", *ASKING)
    overall = report.overall
    assert overall is not None
    h = report.heldout["high score", "low score"]
    # The sets are cross-fitted: a chat model scores a sentence on the half that it is tested on.
    images = (overall.set_a.n_scored + overall.set_b.n_scored) // 2
    images += h.n_a + h.n_b + h.n_unscored
    assert asked["paid_calls"] == asked["hypotheses"] * images
    assert asked["cost"] > 0
    assert fakes.ColourChat.asked == 0


def test_dry_runs_of_sets_that_can_be_formed(tmp_path: Path) -> None:
    a = colours(tmp_path / "a", {"dog": ("red", 30), "cat": ("red", 30)}, 1)
    b = colours(tmp_path / "b", {"dog": ("blue", 30), "cat": ("blue", 30)}, 2)
    arguments = ("--set", "captioner.backend=fakes:ColourCaptioner",
             "--set", "ranker.backend=fakes:ColourRanker")  # fmt: skip
    fakes.ColourCaptioner.computed = fakes.ColourRanker.computed = 0
    plan = dry_run("imagenet-v2", a, b, "--per-class", *arguments)
    assert (plan["comparisons"], plan["images"]) == (3, 120)
    assert plan["captions"] < 120
    prompts = [f"p{i}" for i in range(80)]
    first = write_generated(tmp_path / "first", "by a wall", 1, prompts)
    second = write_generated(tmp_path / "second", "on the grass", 2, prompts[:70])
    plan = dry_run("generators", first, second, "--held-out", "0", *LEXICAL)
    assert (plan["comparisons"], plan["images"], plan["captions"]) == (1, 140, 140)
    assert fakes.ColourCaptioner.computed == fakes.ColourRanker.computed == 0


def test_dry_runs_that_depend_on_a_classifier_are_bounds(predicted: Path) -> None:
    arguments = ("--class-column", "label", *LEXICAL)
    known = dry_run(
        "clip-vs-resnet", predicted, "--first", "clip", "--second", "resnet", *arguments
    )
    assert known["classified"] == 0
    bound = dry_run("clip-vs-resnet", predicted, *arguments, "--per-class")
    assert (bound["comparisons"], bound["images"], bound["classified"]) == (3, 300, 600)
    for name in ("captions", "scored", "hypotheses"):
        assert bound[name] >= known[name]
    one = dry_run("classifier-failures", predicted, "--classifier", "clip", *arguments)
    assert (one["classified"], one["comparisons"]) == (0, 1)
    # Planning needs no weights.
    unknown = dry_run("classifier-failures", predicted, *arguments)
    assert unknown["classified"] == 600
    sentence = CliRunner().invoke(
        app, ["classifier-failures", str(predicted), *arguments, "--dry-run"]
    )
    assert "600 images to classify before the sets are known" in sentence.stdout
