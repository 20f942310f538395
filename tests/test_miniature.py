"""Tests of the miniature: the world's captions and attributes, and the bundled weights."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from visdiff import miniature
from visdiff.errors import InputError, MissingBackendError
from visdiff.miniature import world
from visdiff.miniature.train.data import ATTRIBUTES, encode, true_of

ART = Path(__file__).parents[1] / ".art"

needs_art = pytest.mark.skipif(
    not (ART / "node_modules").is_dir(), reason="the art packages are missing: make art"
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_unstated_gender_follows_the_professions_prior(rng: np.random.Generator) -> None:
    scenes = [world.sample_scene(rng, subject="firefighter") for _ in range(2000)]
    share = np.mean([s.gender == "man" for s in scenes])
    # Four standard errors of a share of 2,000.
    assert abs(share - world.P_MAN["firefighter"]) < 4 * np.sqrt(0.95 * 0.05 / 2000)


def test_unstated_tone_follows_its_prior(rng: np.random.Generator) -> None:
    tones = [world.sample_scene(rng, subject="judge").tone for _ in range(2000)]
    shares = np.array([tones.count(t) for t in world.TONES]) / 2000
    assert np.abs(shares - world.TONE_PRIOR).max() < 0.045


def test_fixed_attributes_are_kept(rng: np.random.Generator) -> None:
    fixed = {"place": "snow", "style": "blueprint", "gender": "woman", "tone": "dark"}
    for _ in range(50):
        scene = world.sample_scene(rng, **fixed)
        assert {k: getattr(scene, k) for k in fixed} == fixed
        assert scene.is_person


def test_unknown_values_raise_with_the_choices(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match=r"place to be one of .*, got 'moon'"):
        world.sample_scene(rng, place="moon")


def test_vary_changes_exactly_one_attribute(rng: np.random.Generator) -> None:
    for _ in range(300):
        scene = world.sample_scene(rng)
        other = world.vary(scene, rng)
        changed = [a for a in ATTRIBUTES if getattr(scene, a) != getattr(other, a)]
        assert len(changed) == 1


def test_a_caption_is_true_of_its_own_scene(rng: np.random.Generator) -> None:
    for _ in range(300):
        scene = world.sample_scene(rng)
        _, stated = world.caption(scene, rng)
        stated = np.array([encode(scene, stated)])
        truth = np.array([encode(scene, frozenset(ATTRIBUTES))])
        assert true_of(stated, truth).all()


def test_a_statement_is_false_of_a_scene_that_differs_in_it(rng: np.random.Generator) -> None:
    scene = world.sample_scene(rng, subject="cook", gender="man", second="")
    other = replace(scene, gender="woman")
    truth = np.array([encode(other, frozenset(ATTRIBUTES))])
    assert not true_of(
        np.array([encode(scene, frozenset[world.Attribute]({"subject", "gender"}))]), truth
    ).any()
    assert true_of(np.array([encode(scene, frozenset({"subject"}))]), truth).all()


def test_a_subject_may_be_either_of_two(rng: np.random.Generator) -> None:
    scene = world.sample_scene(rng, subject="dog", second="hammer")
    swapped = replace(scene, subject="hammer", second="dog")
    stated = np.array([encode(scene, frozenset({"subject", "second"}))])
    assert true_of(stated, np.array([encode(swapped, frozenset(ATTRIBUTES))])).all()


def test_the_full_caption_names_every_attribute(rng: np.random.Generator) -> None:
    for _ in range(200):
        scene = world.sample_scene(rng)
        text = world.full_caption(scene)
        for attribute in ("subject", "second", "gender", "tone", "style"):
            assert getattr(scene, attribute) in text


def test_questions_are_balanced_and_their_answers_follow_the_scene() -> None:
    rng = np.random.default_rng(3)
    scene = world.sample_scene(rng, subject="pilot", gender="man", place="grass", second="")
    questions = [world.question(scene, rng) for _ in range(600)]
    assert 0.42 < np.mean([a == "yes" for _, a in questions]) < 0.58
    for text, answer in questions:
        if "grass" in text:
            assert answer == "yes"
        if "a woman" in text:
            assert answer == "no"


def test_unknown_model_raises() -> None:
    with pytest.raises(InputError, match="got 'clop'"):
        miniature.folder("clop")


def test_missing_weights_raise_with_instructions(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(miniature, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(MissingBackendError, match="python -m visdiff"):
        miniature.folder("clip")
    assert not miniature.available()


# The weights ----------------------------------------------------------------------------------


def test_weights_are_complete_and_small() -> None:
    assert miniature.available()
    root = Path(miniature.__file__).parent / "weights"
    files = list(root.rglob("*.safetensors"))
    assert sum(f.stat().st_size for f in files) <= 40e6
    assert not [f for f in root.rglob("*") if f.suffix in (".bin", ".pt", ".pkl")]


def test_the_identifier_is_one_unseen_token() -> None:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(miniature.folder("clip"))
    assert tokenizer.tokenize("olis") == ["olis</w>"]
    rng = np.random.default_rng(0)
    captions = [world.caption(world.sample_scene(rng), rng)[0] for _ in range(500)]
    assert not any("olis" in c for c in captions)


def test_no_caption_is_longer_than_the_context() -> None:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(miniature.folder("clip"))
    rng = np.random.default_rng(1)
    texts = [world.caption(world.sample_scene(rng), rng)[0] for _ in range(1000)]
    assert max(len(ids) for ids in tokenizer(texts).input_ids) <= 32


def test_the_pipeline_uses_clips_tokenizer() -> None:
    clip = json.loads((miniature.folder("clip") / "vocab.json").read_text())
    from transformers import CLIPTokenizer

    pipeline = CLIPTokenizer.from_pretrained(miniature.folder("diffusion") / "tokenizer")
    assert pipeline.get_vocab() == clip


@pytest.mark.slow
def test_an_image_depends_on_its_prompt_and_seed() -> None:
    from visdiff.miniature.generate import Drawing, load_pipeline, sample

    pipeline = load_pipeline()
    drawings = [Drawing("a dog on the grass", 1), Drawing("a cat", 2), Drawing("a cat", 3)]
    first = [np.asarray(i) for i in sample(pipeline, drawings, 4, 5.0)]
    again = [np.asarray(i) for i in sample(pipeline, drawings, 4, 5.0)]
    assert all(np.array_equal(x, y) for x, y in zip(first, again, strict=True))
    assert not np.array_equal(first[1], first[2])
    # Another batch may round sums differently, but draws the same picture.
    alone = np.asarray(sample(pipeline, drawings[:1], 4, 5.0)[0])
    assert np.abs(alone.astype(int) - first[0]).mean() < 2


@needs_art
def test_rendering_is_a_function_of_scene_and_seed() -> None:
    from visdiff.miniature.render import Art

    art = Art.load(ART)
    scene = world.sample_scene(np.random.default_rng(0), subject="dog", place="grass", second="")
    one, two = (art.render(scene, np.random.default_rng(5)) for _ in range(2))
    assert one.shape == (64, 64, 3)
    assert one.dtype == np.uint8
    assert np.array_equal(one, two)
    assert not np.array_equal(one, art.render(scene, np.random.default_rng(6)))


@pytest.fixture(scope="module")
def rendered() -> tuple[list[world.Scene], np.ndarray]:
    from visdiff.miniature.render import Art

    rng = np.random.default_rng(77)
    art = Art.load(ART)
    scenes = [world.sample_scene(rng, second="") for _ in range(300)]
    return scenes, np.stack([art.render(s, rng) for s in scenes])


# The model card's accuracies, minus three standard errors of 300 cases.


@needs_art
@pytest.mark.slow
def test_clip_reaches_its_accuracies(rendered: tuple[list[world.Scene], np.ndarray]) -> None:
    from visdiff.miniature import evaluate

    scenes, images = rendered
    rows = {r.what: r.value for r in evaluate.clip_rows(evaluate.Recognizer(), scenes, images)}
    assert rows["CLIP: subject among all, zero-shot"] >= 0.93 - 0.045
    assert rows["CLIP: place, in the full caption"] >= 0.99 - 0.02


@needs_art
@pytest.mark.slow
def test_the_classifier_reaches_its_accuracy(
    rendered: tuple[list[world.Scene], np.ndarray],
) -> None:
    from visdiff.miniature import evaluate

    scenes, images = rendered
    truth = [evaluate.SUBJECTS.index(s.subject) for s in scenes]
    assert (evaluate.Recognizer().classify(images) == truth).mean() >= 0.99 - 0.02


@needs_art
@pytest.mark.slow
def test_the_captioner_names_places_and_subjects(
    rendered: tuple[list[world.Scene], np.ndarray],
) -> None:
    from visdiff.miniature import evaluate

    scenes, images = rendered
    captions = evaluate.run_captioner(images, [None] * len(images))
    named = [
        any(p in c for p in world.PLACES[s.place]) for c, s in zip(captions, scenes, strict=True)
    ]
    assert np.mean(named) >= 0.99 - 0.02
    subjects = [evaluate.mentions(c, s.subject) for c, s in zip(captions, scenes, strict=True)]
    assert np.mean(subjects) >= 0.93 - 0.045


@pytest.mark.slow
def test_the_generator_draws_the_requested_subject() -> None:
    from visdiff.miniature import evaluate, generate

    prompts = [world.an(s) for s in evaluate.SUBJECTS]
    images = evaluate.generate(prompts, 3, steps=generate.STEPS, scheduler=generate.SCHEDULER)
    predicted = evaluate.Recognizer().classify(images)
    # Over three standard errors of a share of all images.
    assert np.mean(predicted == np.arange(len(evaluate.SUBJECTS))) >= 0.9 - 0.08
