"""Revival of erased concepts: curves and verdicts, the attack on tiny pipelines, page, command."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pipelines as tiny
from PIL import Image
from typer.testing import CliRunner

import editing
from editing.audits.report import AuditReport
from editing.audits.revival import Curve, Point, Revival, RevivalConfig, compare, revive
from editing.audits.revival.attack import thumbnail_strip
from editing.cli.audit import app
from editing.metrics.classifiers import ZeroShotClassifier
from editing.metrics.proportions import proportion
from editing.pipelines.sampling import Settings
from editing.requests import Erase, Preserve
from visdiff.errors import InputError
from visdiff.report.images import data_uri

STEPS = (0, 10, 20, 40, 80)
TINY = RevivalConfig((1, 3), (2,), images=4, sampling=Settings(steps=2, guidance=3.0), batch_size=4)


def curve(*counts: int, n: int = 16) -> Curve:
    """A curve in which this many of n images show the concept after each of `STEPS`."""
    return Curve(STEPS, tuple(tuple(i < count for i in range(n)) for count in counts))


def verdict(edited: Curve, level: float = 0.5) -> str:
    original, unknown = curve(0, 16, 16, 16, 16), curve(0, 0, 0, 0, 0)
    return compare(4, original, edited, unknown, level, np.random.default_rng(0)).verdict


def parity(images: Iterable[Image.Image]) -> list[str]:
    """Labels that depend on all pixels; about three of four images are a church."""
    return ["church" if int(np.asarray(i, np.int64).sum()) % 4 else "dog" for i in images]


def test_a_level_is_reached_between_the_measured_steps() -> None:
    found = curve(0, 4, 12, 16, 16)
    assert found.steps_to(0.25) == 10
    assert found.steps_to(0.5) == 15
    assert found.steps_to(1.0) == 40
    assert curve(16, 0, 0, 0, 0).steps_to(0.5) == 0
    assert math.isinf(curve(0, 0, 0, 0, 7).steps_to(0.5)[0])


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((0, 16, 16, 16, 16), "hidden"),
        ((0, 0, 16, 16, 16), "hidden"),
        ((0, 0, 0, 0, 16), "between"),
        ((0, 0, 0, 0, 0), "erased"),
        # Not back, but more often than the control: the model has not forgotten it.
        ((0, 0, 0, 0, 6), "between"),
        ((0, 0, 0, 0, 1), "erased"),
    ],
)
def test_verdicts(counts: tuple[int, ...], expected: str) -> None:
    assert verdict(curve(*counts)) == expected


def test_a_model_that_cannot_be_told_from_both_is_undecided() -> None:
    never = curve(0, 0, 0, 0, 0)
    found = compare(1, never, never, never, 0.5, np.random.default_rng(0))
    assert found.verdict == "undecided"
    assert all(math.isinf(d.steps) for d in found.durations.values())


def test_a_faster_revival_never_looks_more_erased() -> None:
    order = ["hidden", "between", "erased"]
    ends = [verdict(curve(0, 0, 0, 0, k)) for k in range(17)]
    assert [order.index(e) for e in ends] == sorted((order.index(e) for e in ends), reverse=True)


def test_intervals_contain_the_duration() -> None:
    found = compare(
        4, curve(0, 4, 9, 16, 16), curve(0, 2, 5, 9, 16), curve(0, 0, 0, 1, 8), 0.5,
        np.random.default_rng(0),
    )  # fmt: skip
    assert all(d.low <= d.steps <= d.high for d in found.durations.values())


@pytest.mark.parametrize(
    ("steps", "rows"),
    [((1, 2), ((True,), (True,))), ((0, 2, 1), ((True,),) * 3), ((0, 1), ((True,), ()))],
)
def test_curves_begin_at_zero_and_have_equally_many_images(
    steps: tuple[int, ...], rows: tuple[tuple[bool, ...], ...]
) -> None:
    with pytest.raises(InputError, match="Expected ascending steps"):
        Curve(steps, rows)


@pytest.mark.parametrize(
    "wrong", [{"steps": (3, 1)}, {"pictures": ()}, {"images": 1}, {"steps": (0, 1)}]
)
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="Expected"):
        replace(TINY, **wrong)


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny.sd1()


@pytest.fixture(scope="module")
def edit(pipe: Any) -> Any:
    return editing.fit(pipe, [Erase("church"), Preserve(["a dog"])], nearest=0)


@pytest.fixture(scope="module")
def attacked(
    pipe: Any, edit: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Revival, Path, list[Point]]:
    """A complete attack, its folder and its events."""
    folder, points = tmp_path_factory.mktemp("revival"), []
    (found,) = revive(pipe, edit, folder, parity, config=TINY, on_point=points.append)
    return found, folder, points


def test_the_attack_measures_every_model_after_all_steps(
    attacked: tuple[Revival, Path, list[Point]],
) -> None:
    found, _, points = attacked
    (only,) = found.comparisons
    assert only.pictures == 2
    assert {only.original.steps, only.edited.steps, only.unknown.steps} == {(0, 1, 3)}
    assert {len(row) for row in only.edited.recognised} == {4}
    assert [p.done for p in points] == list(range(1, points[-1].total + 1))
    assert 4 * len(points) + 4 == TINY.drawn_images
    assert TINY.training_steps == 3 * 3


def test_three_tokens_are_learnt_and_the_pipeline_is_restored(
    pipe: Any, edit: Any, attacked: tuple[Revival, Path, list[Point]]
) -> None:
    _, folder, _ = attacked
    before = tiny.weights(pipe)
    times = {p: p.stat().st_mtime_ns for p in folder.glob("*.*")}
    (same,) = revive(pipe, edit, folder, parity, config=TINY)
    assert same.to_dict() == attacked[0].to_dict()
    assert tiny.identical(before, tiny.weights(pipe))
    assert "<revived>" not in pipe.tokenizer.get_vocab()
    assert len(list(folder.glob("*.safetensors"))) == 3
    assert {p: p.stat().st_mtime_ns for p in folder.glob("*.*")} == times  # nothing is repeated


def test_an_interrupted_attack_gives_the_same_images(
    pipe: Any, edit: Any, attacked: tuple[Revival, Path, list[Point]], tmp_path: Path
) -> None:
    found, folder, points = attacked

    def stop(point: Point) -> None:
        if point.done == 6:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        revive(pipe, edit, tmp_path, parity, config=TINY, on_point=stop)
    (resumed,) = revive(pipe, edit, tmp_path, parity, config=TINY)
    assert resumed.to_dict() == found.to_dict()
    images = {p.name: p.read_bytes() for p in folder.glob("*.png")}
    assert {p.name: p.read_bytes() for p in tmp_path.glob("*.png")} == images
    assert len(images) < len(points)  # step 0 of the control is that of the original model
    # The message on a damaged image says to delete it; its checkpoint is further than it. Before
    # the images after a step are those of both names and of the start.
    after_step_1 = sorted(tmp_path.glob("*.png"), key=lambda p: p.stat().st_mtime_ns)[3]
    after_step_1.unlink()
    (again,) = revive(pipe, edit, tmp_path, parity, config=TINY)
    assert again.to_dict() == found.to_dict()
    assert after_step_1.read_bytes() == images[after_step_1.name]


def test_an_unedited_model_revives_at_step_zero_from_the_name(pipe: Any, tmp_path: Path) -> None:
    """The token starts as the concept's own word, so its images are those of the name."""
    config = replace(TINY, steps=(1,), pictures=(1,), start="church")
    (found,) = revive(pipe, pipe, tmp_path, parity, requests=[Erase("church")], config=config)
    (only,) = found.comparisons
    assert only.edited == only.original
    assert sum(only.edited.recognised[0]) == found.by_name["original"].count
    assert only.durations["edited"].steps == 0
    assert only.verdict != "erased"


def test_a_concept_that_is_not_recognised_has_a_note(pipe: Any, edit: Any, tmp_path: Path) -> None:
    def nothing(images: Iterable[Image.Image]) -> list[str]:
        return ["dog" for _ in images]

    (found,) = revive(pipe, edit, tmp_path, nothing, config=replace(TINY, pictures=(1,)))
    assert found.comparisons == ()
    assert found.verdict == "undecided"
    assert "recognises 0 of 2" in found.notes[0]
    assert found.sentence.startswith("Whether 'church' is erased is undecided")


def test_only_removed_concepts_are_attacked(pipe: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="removes a concept"):
        revive(pipe, pipe, tmp_path, parity, requests=[Preserve(["a dog"])], config=TINY)


class Axes:
    """An encoder whose vectors are one axis a text, and the mean colour of an image."""

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        return np.eye(3, dtype=np.float32)[: len(texts)]

    def prepare(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image, np.float32).mean((0, 1))

    def __call__(self, batch: list[np.ndarray]) -> Sequence[np.ndarray]:
        return batch


def test_a_zero_shot_classifier_names_the_nearest_text() -> None:
    encoder: Any = Axes()
    found = ZeroShotClassifier(encoder, ["red", "green", "blue"], ["a", "b", "c"])
    assert found(Image.new("RGB", (4, 4), name) for name in ("blue", "red")) == ["blue", "red"]
    with pytest.raises(InputError, match="2 or more labels"):
        ZeroShotClassifier(encoder, ["red"], ["a"])


def test_the_report_has_the_verdict_its_numbers_and_escaped_names(tmp_path: Path) -> None:
    never, soon = curve(0, 0, 0, 0, 0), curve(0, 16, 16, 16, 16)
    found = compare(16, soon, soon, never, 0.5, np.random.default_rng(0))
    name = "<b>church</b>"
    shares = {"original": proportion(np.ones(4, bool)), "edited": proportion(np.zeros(4, bool))}
    revival = Revival(name, shares, (found,), ("A note.",), {"a strip": b"png"})
    assert "is hidden: its name draws it in 0% of images" in revival.sentence
    assert "learnt from 16 pictures, it is back after 5" in revival.sentence
    assert "an unknown concept takes more than 80" in revival.sentence
    report = AuditReport({}, (), (), (), 0, revivals=(revival,))
    page = report.to_html()
    assert "Erased, or hidden?" in page
    assert "A note." in page
    assert "<b>church" not in page
    assert report.to_dict()["revivals"][0]["comparisons"][0]["durations"]["unknown"] == {
        "steps": None, "low": None, "high": None,
    }  # fmt: skip
    assert '"verdict": "hidden"' in report.to_json(indent=1)
    assert "Erased, or hidden?" not in AuditReport({}, (), (), (), 0).to_html()


def test_the_command_checks_its_options_before_it_loads_a_model(tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["--out", str(tmp_path / "out"), "--revive", *arguments])
        return str(result.exception)

    requests = tmp_path / "requests.toml"
    requests.write_text('[[debias]]\nconcept = "cook"\nratios = {man = 0.5, woman = 0.5}\n')
    base = ("--base", "miniature", "--edited", "miniature")
    assert "got images" in run("--images-a", "a.csv", "--images-b", "b.csv")
    assert "erases a concept" in run(*base, "--requests", str(requests))
    requests.write_text('[[erase]]\nconcept = "church"\n')
    assert "separated by commas" in run(*base, "--requests", str(requests), "--revive-steps", "a,b")


@pytest.mark.parametrize("side", [8, 512])
def test_images_of_the_page_are_thumbnails(side: int) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(8, side, side, 3), dtype=np.uint8)
    data = thumbnail_strip(images)
    with Image.open(BytesIO(data)) as strip:
        shown = min(side, 256)
        assert strip.size == (6 * shown, shown)
        assert strip.format == ("PNG" if side == 8 else "JPEG")
    uri = data_uri(data)
    never = Revival("church", {}, (), (), {"a strip": data})
    assert uri is not None
    assert uri in AuditReport({}, (), (), (), 0, revivals=(never,)).to_html()
