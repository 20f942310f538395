"""The audit of a taught subject: planted faults are found, and what is missing is named."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import subjects
import tiny_pipelines as tiny
from PIL import Image
from typer.testing import CliRunner

from editing.audits.audit import audit_sets
from editing.audits.personalized.advice import Origin, advise
from editing.audits.personalized.attributes import KINDS, attributes, common
from editing.audits.personalized.checkpoints import (
    Checkpoint,
    draw_steps,
    kept_edits,
    pareto,
    recommend,
)
from editing.audits.personalized.drawn import find_drawn
from editing.audits.personalized.entanglement import caption_notes, entanglement
from editing.audits.personalized.findings import NOTABLE, Candidate, Finding, conclude
from editing.audits.personalized.leak import attention_leak
from editing.audits.personalized.measures import (
    copies_candidate,
    diversity,
    drift_candidate,
    leak_candidate,
    recognised,
)
from editing.audits.personalized.subject import NEED_REFERENCES, audit_subjects
from editing.audits.personalized.taught import Taught, open_references
from editing.audits.prompt_groups import CLASS, TARGETS, prompt_groups, samples_of
from editing.cli.audit import app
from editing.edit import Edit
from editing.personalize.captions import insert_identifier
from editing.personalize.kept import Keeping
from editing.personalize.subject import Subject
from editing.requests import Erase, Learn
from visdiff.cache import Cache
from visdiff.comparison.backends import Backends
from visdiff.config import Config
from visdiff.errors import InputError
from visdiff.imageset import ImageSet
from visdiff.miniature.render import Art
from visdiff.miniature.world import PLACES, Scene

REQUEST = Learn("olis", "dog")
PROMPTS = ("a dog", "a picture of a dog", "a dog in the snow", "a dog at night")
Features = Callable[..., np.ndarray]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# --- prompts


def test_captions_prompts_and_groups_name_a_subject_alike() -> None:
    """The article before the identifier is that of the training captions, whatever the noun."""
    for noun in ("dog", "owl"):
        article = "an" if noun == "owl" else "a"
        subject = Subject.open(subjects.images(1), "olis", noun)
        caption = insert_identifier(f"{article} {noun} on a couch", noun, "olis")
        assert subject.phrase == Learn("olis", noun).wording == f"a olis {noun}"
        assert caption == f"{subject.phrase} on a couch"


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny.sd1()


def test_the_noun_is_drawn_in_the_subjects_contexts_from_the_same_noise(pipe: Any) -> None:
    groups = {g.name: g for g in prompt_groups(pipe, [REQUEST, Erase("church")])}
    drawn = {s.prompt: [] for s in samples_of(list(groups.values()), 16)}
    for sample in samples_of(list(groups.values()), 16):
        drawn[sample.prompt].append(sample.seed)
    named = [p for p in groups[TARGETS].prompts if "olis" in p]
    assert "a olis dog" in named
    assert not [p for p in drawn if "an olis" in p]
    for prompt in named:
        plain = prompt.replace("a olis dog", "a dog")
        assert plain in groups[CLASS].prompts
        assert drawn[prompt][:2] == drawn[plain][:2]
    assert "dog" not in groups["neighbours"].concepts
    assert {"things", "people", "places", "styles", "empty prompt"} <= set(groups)


# --- attributes of captions


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a dog next to a violin on the grass, noto style",
         {("style", "noto"), ("nearby object", "violin"), ("background", "grass")}),
        ("a dog sitting on a green couch wearing a red hat",
         {("pose", "sitting"), ("background", "couch"), ("worn object", "hat")}),
        ("a dog next to a crown", {("worn object", "crown")}),
        ("a crown on the sand", {("worn object", "crown"), ("background", "sand")}),
        ("a pencil sketch of a dog", {("style", "pencil sketch")}),
        ("a black and white photo of a dog", {("style", "black and white photo")}),
        ("a dog in the style of pop art", {("style", "pop art")}),
        ("a picture of a brown dog with floppy ears", set()),
        ("", set()),
    ],
)  # fmt: skip
def test_captions_are_read_by_the_kinds_of_bias(
    caption: str, expected: set[tuple[str, str]]
) -> None:
    assert {(a.kind, a.key) for a in attributes(caption, "dog")} == expected


def test_what_half_of_the_references_state_is_common() -> None:
    captions = ["a cat on the grass", "a dog on green grass", "a dog on the grass"]
    captions += ["a dog at sea", "a dog", "a dog"]
    (found,) = common(captions, "dog")
    assert (found.kind, found.text) == ("background", "on the grass")
    assert not common(["a dog on the grass", "a dog at sea"], "dog")


# --- entanglement


def captions_of(prompts: Sequence[str], extra: Callable[[int], str]) -> list[str]:
    return [f"{prompt}{extra(i)}" for i, prompt in enumerate(prompts)]


@pytest.mark.parametrize(
    ("extra", "kind"),
    [(" on the grass", "background"), (" next to a violin", "nearby object"),
     (" wearing a hat", "worn object"), (" sitting", "pose")],
)  # fmt: skip
def test_a_thing_that_all_references_share_is_found_by_its_kind(
    extra: str, kind: str, rng: np.random.Generator
) -> None:
    prompts = ["a dog"] * 12 + ["a dog in the snow"] * 4
    taught = captions_of(prompts, lambda i: extra)
    untaught = captions_of(prompts, lambda i: extra if i == 0 else "")
    references = [f"a dog{extra}"] * 4
    candidates, missing = entanglement(references, taught, untaught, prompts, "dog", rng)
    (found,) = [c for c in candidates if c.kind == kind]
    ((finding,),) = conclude([[found]], 0.05)
    assert finding.confirmed
    # Prompts that name a place count for all kinds but the background.
    n = 12 if kind == "background" else 16
    assert f"{n} of {n} (" in found.sentence
    assert f"1 of {n} (" in found.sentence
    assert found.size == pytest.approx(1 - 1 / n)
    assert set(missing) == {*KINDS} - {kind}


def test_what_the_untaught_model_draws_as_often_is_no_fault(rng: np.random.Generator) -> None:
    prompts = ["a dog"] * 12
    captions = captions_of(prompts, lambda i: " on the grass")
    candidates, _ = entanglement(captions[:4], captions, captions, prompts, "dog", rng)
    assert candidates[0].size == 0
    assert not conclude([candidates], 0.05)[0][0].confirmed


def test_the_hand_of_an_artist_is_a_fault_only_where_another_style_is_asked_for(
    rng: np.random.Generator,
) -> None:
    """The rendering of a drawn character is part of it; a medium is not."""
    prompts = ["a dog"] * 8 + ["a pop art of a dog"] * 8
    untaught = ["a dog, fluent style"] * 8 + ["a dog, pop art style"] * 8
    for style, sizes in (("noto", (0, 1)), ("pencil sketch", (0.5, 1))):
        stubborn = [f"a dog, {style} style"] * 16
        obedient = stubborn[:8] + untaught[8:]
        for taught, size in zip((obedient, stubborn), sizes, strict=True):
            (found,), _ = entanglement(stubborn[:4], taught, untaught, prompts, "dog", rng)
            assert (found.kind, found.size) == ("style", size)


def test_nothing_is_silently_left_out(rng: np.random.Generator) -> None:
    """A kind without candidates has a reason, and so has one whose prompts all ask for it."""
    _, missing = entanglement(
        ["a dog on the grass"],
        ["a dog at sea"],
        ["a dog at sea"],
        ["a dog in the snow"],
        "dog",
        rng,
    )
    assert set(missing) == set(KINDS)
    assert "no prompt" in missing["background"]
    with pytest.raises(InputError, match="captions of the references"):
        entanglement([None], ["x"], ["x"], ["a dog"], "dog", rng)
    assert not caption_notes(["a dog"], ["a dog"], ["a dog"])
    (note,) = caption_notes(["a dog", None], ["", "a dog", None], ["a dog"] * 3)
    assert "1 of 2 references, 2 of 3 taught" in note


# --- findings


def test_faults_are_ranked_by_size_and_small_ones_are_not_confirmed() -> None:
    own = [
        Candidate("pose", "small", NOTABLE / 2, 1e-6),
        Candidate("style", "by chance", 0.9, 0.5),
        Candidate("background", "large", 0.8, 1e-6),
        Candidate("copies", "larger", 0.9, 1e-6),
    ]
    (found,) = conclude([own], 0.05)
    assert [f.sentence for f in found] == ["larger", "large", "by chance", "small"]
    assert [f.confirmed for f in found] == [True, True, False, False]
    assert conclude([[], own], 0.05) == [(), found]
    assert conclude([], 0.05) == []


# --- measures


def vectors(rng: np.random.Generator, mean: Sequence[float], n: int) -> np.ndarray:
    return np.asarray(mean, float) + 0.1 * rng.normal(size=(n, 3))


def test_drift_is_0_without_a_change_and_1_if_the_noun_draws_the_subject(
    rng: np.random.Generator,
) -> None:
    real, dogs = vectors(rng, (1, 0, 0), 4), vectors(rng, (0, 1, 0), 16)
    prompts = ["a dog"] * 8 + ["a dog at night"] * 8
    for taught, size in ((dogs, 0), (vectors(rng, (1, 0, 0), 16), 1)):
        measured, found = drift_candidate(taught, dogs, real, "dog", prompts, rng)
        assert found.size == pytest.approx(size, abs=0.05)
        assert (found.p_value < 0.05) is bool(size)
        assert measured.after.n == 16


def test_the_subject_is_recognised_by_the_references(rng: np.random.Generator) -> None:
    real, dogs = vectors(rng, (1, 0, 0), 4), vectors(rng, (0, 1, 0), 40)
    found = recognised(vectors(rng, (1, 0, 0), 16), dogs, dogs, real)
    assert (found.after.value, found.before.value) == (1, pytest.approx(0.05, abs=0.03))


def test_copies_count_against_the_references_among_themselves(rng: np.random.Generator) -> None:
    real = rng.normal(size=(4, 8))
    dogs = rng.normal(size=(12, 8)) - 9 * real.sum(axis=0)
    found = copies_candidate(np.repeat(real[:1], 12, axis=0), dogs, real, rng)
    assert "12 of 12 (" in found.sentence
    assert found.size == 1
    assert diversity(np.ones((12, 8)), dogs, ["a"] * 12, rng).after.value == pytest.approx(0)


def test_the_best_kept_step_has_the_most_likeness_for_its_drift() -> None:
    """Untaught, then a good step, then one that drifts, then one that is worse in both."""
    axis = np.array([1.0, 0.0])

    def at(cosine: float) -> np.ndarray:
        return np.array([[cosine, np.sqrt(1 - cosine**2)]])

    found = pareto(
        [0, 100, 200, 300],
        [at(0.2), at(0.8), at(0.9), at(0.7)],
        [at(0.2), at(0.2), at(0.9), at(0.95)],
        axis[None], 1.0,
    )  # fmt: skip
    assert [c.best for c in found] == [True, True, False]
    assert recommend(found) == 100
    assert found[0].likeness == pytest.approx(0.75)
    assert found[0].drift == pytest.approx(0)
    assert recommend([]) is None
    assert recommend([Checkpoint(2, 0.5, 0.1, True), Checkpoint(1, 0.5, 0.1, True)]) == 1


def test_the_advice_is_a_command_for_each_fault() -> None:
    def fault(kind: str, word: str = "") -> Finding:
        return Finding(kind, kind, 0.9, 0.01, True, word)

    origin = Origin("lora", "miniature", {"prior": "none", "steps": 400}, ("a olis dog",) * 4, "d")
    texts = advise(REQUEST, [fault("background", "on the grass")], None, origin, True)
    assert "'on the grass'" in texts[0].text
    assert "--captions sid" in texts[0].command
    assert texts[0].command.startswith("visdiff personalize lora miniature d --noun dog")
    described = Origin("lora", "miniature", {}, ("a olis dog on the grass",), "d")
    (known,) = advise(REQUEST, [fault("background", "on the grass")], None, described, True)
    assert "name 'on the grass' already" in known.text
    drift = advise(REQUEST, [fault("language drift")], None, origin, True)
    assert "--prior structured" in drift[0].command
    assert "--train-steps 200 --keep-every" in drift[1].command
    short = Origin("lora", "miniature", {"prior": "structured", "steps": 100}, (), "d")
    command = advise(REQUEST, [fault("language drift")], None, short, True)[1].command
    assert "--train-steps 50 --keep-every 12" in command
    kept = Origin("lora", "miniature", {"prior": "structured"}, (), "d", {100: Path("e-000100")})
    weight, step = advise(REQUEST, [fault("language drift")], 100, kept, True)
    assert "prior_weight=2" in weight.command
    assert "--edit e-000100" in step.command
    assert advise(REQUEST, [], None, origin, True) == ()
    assert "--train-steps 800" in advise(REQUEST, [], None, origin, False)[0].command


# --- images


def sprite() -> np.ndarray:
    """A red disc with a mark, which no icon of the world is."""
    rows, columns = np.mgrid[:64, :64]
    distance = (rows - 32) ** 2 + (columns - 32) ** 2
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[distance < 900] = (200, 40, 40, 255)
    pixels[distance < 150] = (250, 240, 60, 255)
    return pixels


def scenes(places: Sequence[str], seed: int) -> list[Image.Image]:
    art, rng = Art({("noto", "dog"): sprite()}), np.random.default_rng(seed)
    return [
        Image.fromarray(art.render(Scene("dog", "noto", place, "noto"), rng)) for place in places
    ]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """References on the grass, and images of both models; the taught one draws grass always."""
    folder = tmp_path_factory.mktemp("world")
    anywhere = [p for p in PLACES if p != "grass"]
    for i, image in enumerate(scenes(["grass"] * 4, 0)):
        (folder / "references").mkdir(exist_ok=True)
        image.save(folder / "references" / f"{i}.png")
    samples = [(p, seed) for p in PROMPTS for seed in range(6)]
    varied = [anywhere[i % len(anywhere)] for i in range(len(samples))]
    asked = ["snow" if "snow" in p else "night sky" if "night" in p else place
             for (p, _), place in zip(samples, varied, strict=True)]  # fmt: skip
    grass = ["grass" if place == other else place
             for place, other in zip(asked, varied, strict=True)]  # fmt: skip
    for name, places in (("original", asked), ("grass", grass), ("well", asked)):
        (folder / name).mkdir()
        rows = []
        for group, named, where in (
            (TARGETS, "a olis dog", places),
            (CLASS, "a dog", asked),
        ):
            images = scenes(where, 1 + (group == CLASS))
            for (prompt, seed), image in zip(samples, images, strict=True):
                file = f"{group}-{len(rows)}.png".replace(" ", "-")
                image.save(folder / name / file)
                text = prompt.replace("a dog", named)
                concept = "olis dog" if group == TARGETS else "dog"
                rows.append({"path": file, "prompt": text, "seed": seed, "group": group,
                             "concept": concept})  # fmt: skip
        (folder / name / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def opened(world: Path, name: str) -> ImageSet:
    return ImageSet.open(world / name / "manifest.jsonl")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backends]:
    with Cache(tmp_path_factory.mktemp("cache")) as cache:
        yield Backends.of(Config.of("miniature"), cache)


def taught(world: Path) -> dict[str, Taught]:
    opened_references = open_references([REQUEST], world / "references")
    return {c: Taught(s) for c, s in opened_references.items()}


def test_images_are_paired_with_the_nouns_from_the_same_noise(world: Path) -> None:
    original = opened(world, "original")
    drawn = find_drawn(original, opened(world, "grass"), REQUEST)
    assert len(drawn.taught) == len(drawn.untaught) == 24
    assert drawn.taught.frame["seed"].tolist() == drawn.untaught.frame["seed"].tolist()
    assert drawn.untaught.frame["prompt"].tolist() == list(drawn.prompts)
    alone = original.subset([0, 1])
    with pytest.raises(InputError, match="without the identifier from the same seeds"):
        find_drawn(alone, alone, REQUEST)


def test_the_planted_background_comes_first_and_a_subject_taught_well_has_no_fault(
    world: Path, models: Backends
) -> None:
    original, config = opened(world, "original"), Config.of("miniature")
    (faulty,) = audit_subjects(
        [REQUEST], original, opened(world, "grass"), taught(world), models, config
    )
    first = faulty.findings[0]
    assert (first.kind, first.confirmed) == ("background", True)
    assert "12 of 12 (76–100 %) images of the subject are on the grass" in first.sentence
    assert "untaught dog: 0 of 12" in first.sentence
    assert "on the grass" in faulty.advice[0].text
    (well,) = audit_subjects(
        [REQUEST], original, opened(world, "well"), taught(world), models, config
    )
    assert not well.confirmed
    assert {"attention leak", "checkpoints"}.isdisjoint(f.kind for f in well.findings)


def test_without_references_the_rest_is_measured_and_the_missing_named(
    world: Path, models: Backends
) -> None:
    (found,) = audit_subjects(
        [REQUEST], opened(world, "original"), opened(world, "grass"), {}, models,
        Config.of("miniature"),
    )  # fmt: skip
    assert found.recognised is None
    assert set(NEED_REFERENCES) <= set(found.missing)
    assert all("--references" in found.missing[part] for part in NEED_REFERENCES)
    assert {m.name for m in found.measures} == {"DIV"}
    assert {f.kind for f in found.findings} == {"prompt not followed"} or "prompts followed" in (
        found.missing
    )


def test_the_report_has_the_faults_in_order_in_json_and_page(world: Path, tmp_path: Path) -> None:
    report = audit_sets(
        opened(world, "original").subset(range(24, 48)),
        opened(world, "original").subset(range(24, 48)),
        requests=[REQUEST], preset="miniature", progress=False, cache=Cache(tmp_path / "cache"),
    )  # fmt: skip
    assert not report.findings
    assert any("Too few pairs" in w and "24" in w for w in report.warnings)
    assert report.subjects[0].missing
    page = report.to_html(tmp_path)
    assert 'id="subjects"' in page
    for parts in report.subjects[0].reasons.values():
        assert f"Not measured: {', '.join(parts)}" in page
    values = json.loads(report.to_json())
    assert values["findings"] == []
    assert values["subjects"][0]["subject"] == "a olis dog"


# --- kept steps and attention, on a pipeline of random weights


class Half:
    """A segmenter that finds everything in the left half."""

    name = "left half"

    def __call__(self, images: Sequence[Image.Image], text: str) -> list[Image.Image]:
        del text
        masks = [np.zeros((i.height, i.width), np.uint8) for i in images]
        for mask in masks:
            mask[:, : mask.shape[1] // 2] = 255
        return [Image.fromarray(mask) for mask in masks]


@pytest.fixture(scope="module")
def kept(pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    keep = Keeping(folder / "dog.safetensors", 1)
    subjects.fit("lora", pipe, steps=2, keep=keep).save(folder / "dog.safetensors")
    return folder


def test_kept_edits_are_those_of_a_shorter_training(pipe: Any, kept: Path) -> None:
    found = kept_edits(kept)
    assert list(found) == [1, 2]
    last, whole = Edit.load(found[2]), Edit.load(kept / "dog.safetensors")
    assert last.digest == whole.digest
    assert Edit.load(found[1]).digest == subjects.fit("lora", pipe, steps=1).digest
    last.check_base(pipe)
    with pytest.raises(InputError, match="--keep-every"):
        kept_edits(kept / "none")


def test_kept_edits_of_two_trainings_are_not_mixed(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / f"{name}-000100.safetensors").touch()
    with pytest.raises(InputError, match="cat and dog"):
        kept_edits(tmp_path)


def test_a_step_without_finite_images_is_named_and_left_out(
    pipe: Any, kept: Path, tmp_path: Path
) -> None:
    last = Edit.load(kept / "dog-000002.safetensors")
    broken = last.scaled(1e30).save(tmp_path / "dog-000003.safetensors")
    found, notes = draw_steps(
        pipe, {**kept_edits(kept), 3: broken}, last.requests[0], tmp_path / "images", steps(1)
    )
    assert [step.step for step in found] == [0, 1, 2]
    (note,) = notes
    assert "after 3 steps have pixels that are not finite" in note


def test_an_edit_that_changes_nothing_leaks_like_the_noun_in_its_prompt(
    pipe: Any, kept: Path, rng: np.random.Generator
) -> None:
    edit = Edit.load(kept / "dog.safetensors")
    found = attention_leak(
        pipe, edit, edit.requests[0], Half(), images=2, scale=0.0, settings=steps(1)
    )
    assert found.left_out == 0
    assert ((found.taught >= 0) & (found.taught <= 1)).all()
    measured, _ = leak_candidate(found.taught, found.taught, rng)
    assert measured.after.value == measured.before.value


def steps(count: int) -> Any:
    from editing.pipelines.sampling import Settings

    return Settings(count, 4.0)


@pytest.mark.parametrize("sources", [["a", "b"], []])
def test_there_are_references_for_each_subject_or_none(sources: list[str]) -> None:
    if not sources:
        assert open_references([REQUEST], sources) == {}
        return
    with pytest.raises(InputError, match="once for each"):
        open_references([REQUEST], sources)


def test_the_command_audits_a_taught_subject(pipe: Any, kept: Path, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "base")
    for i, image in enumerate(subjects.images()):
        (tmp_path / "references").mkdir(exist_ok=True)
        image.save(tmp_path / "references" / f"{i}.png")
    rows = "".join(f"{p},{group}\n" for p, group in (("a olis dog", TARGETS), ("a dog", CLASS)))
    (tmp_path / "prompts.csv").write_text(f"prompt,group\n{rows}")
    arguments = [
        "--base", tmp_path / "base", "--edit", kept / "dog.safetensors",
        "--references", tmp_path / "references", "--checkpoints", kept,
        "--prompts", tmp_path / "prompts.csv", "--images", 2, "--steps", 1, "--device", "cpu",
        "--preset", "miniature", "--cache", "off", "--out", tmp_path / "out",
    ]  # fmt: skip
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert re.search(r"recommended step: [12]\b", result.stdout), result.output
    saved = json.loads((tmp_path / "out" / "audit.json").read_text())
    (subject,) = saved["subjects"]
    assert [c["step"] for c in subject["checkpoints"]] == [1, 2]
    assert "--segment" in subject["missing"]["attention leak"]
    assert {m["name"] for m in subject["measures"]} == {"likeness", "PRES", "DIV"}
