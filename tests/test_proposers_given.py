"""Tests of proposers of given texts: the user's hypotheses, and phrases of a bank."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image
from scipy.stats import norm, ttest_ind
from tiny import folder_of_pictures, pictures, save_open_clip

from visdiff.cache import Cache
from visdiff.encoders.open_clip import OpenClipEncoder
from visdiff.engine import Runtime
from visdiff.errors import InputError
from visdiff.imageset import ImageSet
from visdiff.miniature import world
from visdiff.proposers import Evidence
from visdiff.proposers.concepts import (
    ConceptsProposer,
    concept_bank,
    read_bank,
    welch_t,
    world_bank,
)
from visdiff.proposers.manual import ManualProposer

PHRASES = ["a dog", "a cat", "red", "on sand", "at night", "snow", "a bus"]


def evidence(n: int = 3) -> Evidence:
    return Evidence(ImageSet.open(pictures(n, 1)), ImageSet.open(pictures(n, 2)))


def claims(proposer: Any, sets: Evidence | None = None) -> list[tuple[str, str]]:
    found = proposer.propose(sets or evidence(), rng=np.random.default_rng(0))
    return [(h.direction, h.text) for h in found.hypotheses]


def test_prefix_gives_the_direction_and_the_default_is_both() -> None:
    proposer = ManualProposer(["A: a dog", "B:  at   night", " snow ", "b: no prefix"])
    assert claims(proposer) == [
        ("A", "a dog"),
        ("B", "at night"),
        ("A", "snow"),
        ("B", "snow"),
        ("A", "b: no prefix"),
        ("B", "b: no prefix"),
    ]
    assert proposer.max_hypotheses == 3


def test_repeats_are_removed() -> None:
    assert claims(ManualProposer(["A: a dog", "A: A Dog", "a dog"])) == [
        ("A", "a dog"),
        ("B", "a dog"),
    ]


def test_file_and_list_are_combined(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes("\ufeff# my ideas\n\nA: a café\r\n  B: at night\n".encode())
    assert claims(ManualProposer(["B: snow"], str(path))) == [
        ("B", "snow"),
        ("A", "a café"),
        ("B", "at night"),
    ]


def test_invalid_hypotheses(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"got none; set proposer\.hypotheses"):
        ManualProposer()
    with pytest.raises(InputError, match=r"missing\.txt \(No such file"):
        ManualProposer(file=str(tmp_path / "missing.txt"))
    with pytest.raises(InputError, match="got 'A: '"):
        ManualProposer(["A: "])
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"bad\.txt with other bytes"):
        ManualProposer(file=str(tmp_path / "bad.txt"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_open_clip(tmp_path_factory.mktemp("weights") / "clip")


def bank(folder: Path, *phrases: str) -> str:
    path = folder / "bank.txt"
    path.write_text("\n".join(phrases), "utf-8")
    return str(path)


def scores(clip: Path, images: ImageSet) -> np.ndarray:
    encoder = OpenClipEncoder(str(clip), None, "cpu")
    vectors = [np.array(encoder([encoder.prepare(image)])[0], np.float64) for image in images]
    return np.array(encoder.encode_texts(PHRASES), np.float64) @ np.stack(vectors).T


def test_phrases_with_the_largest_t(clip: Path, tmp_path: Path) -> None:
    sets = evidence(6)
    of_a, of_b = scores(clip, sets.images_a), scores(clip, sets.images_b)
    t = np.array(ttest_ind(of_a, of_b, axis=1, equal_var=False)[0])
    path = bank(tmp_path, *PHRASES)
    found = ConceptsProposer(path, 1, str(clip), min_z=0, device="cpu")
    expected = [("A", PHRASES[t.argmax()])] if t.max() > 0 else []
    expected += [("B", PHRASES[t.argmin()])] if t.min() < 0 else []
    assert claims(found, sets) == expected
    between = float(np.sort(np.abs(t))[-2:].mean())
    strict = ConceptsProposer(path, 9, str(clip), min_z=between, device="cpu")
    best = int(np.abs(t).argmax())
    assert claims(strict, sets) == [("A" if t[best] > 0 else "B", PHRASES[best])]


class Axes:
    """An encoder of arrays: images and texts are their vectors."""

    kind = "axes"
    texts: ClassVar[Mapping[str, tuple[float, float, float]]] = {
        "an animal": (1, 0, 0),
        "a mammal": (0.99, 0.141, 0),
        "red": (0, 0, 1),
    }

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"encoder": "axes"}

    def prepare(self, image: Image.Image) -> np.ndarray:
        pixel = np.array(image.getpixel((0, 0)), np.float64)
        return pixel / np.linalg.norm(pixel)

    def __call__(self, batch: list[Any]) -> list[Any]:
        return [vector.astype(np.float32) for vector in batch]

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([self.texts[text] for text in texts], np.float32)


def solid(colors: np.ndarray) -> ImageSet:
    rows = np.clip(colors, 1, 255).astype(int).tolist()
    return ImageSet.open([Image.new("RGB", (8, 8), tuple(row)) for row in rows])


def test_of_phrases_with_correlated_scores_one_is_proposed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 10, (2, 40, 3))
    a, b = solid([200, 40, 100] + noise[0]), solid([100, 40, 200] + noise[1])
    proposer = ConceptsProposer(bank(tmp_path, *Axes.texts), encoder=Axes())
    found = dict(claims(proposer, Evidence(a, b)))
    assert found.keys() == {"A", "B"}
    assert found["A"] in ("an animal", "a mammal")
    assert found["B"] == "red"


def test_a_broad_phrase_precedes_one_that_fits_a_few_images_very_well() -> None:
    rng = np.random.default_rng(0)
    images_a, images_b = rng.normal(0, 0.05, (2, 50, 2))
    images_a[:, 0] += 0.3  # a vehicle
    images_a[:20, 1] += 0.9  # a fire engine
    broad, narrow = welch_t(np.eye(2), images_a, images_b)
    assert images_a[:, 1].mean() > images_a[:, 0].mean()
    assert broad > 2 * narrow > 0


def test_default_threshold_expects_one_phrase_by_chance(tmp_path: Path) -> None:
    """Under independent scores of p phrases, about one in each direction passes, whatever p is."""
    for size in (20, 4000):
        path = bank(tmp_path, *map(str, range(size)))
        proposer = ConceptsProposer(path, encoder=Axes())
        assert norm.sf(proposer.min_z) * size == pytest.approx(1)


def test_bundled_bank_is_clean_and_has_broad_terms() -> None:
    phrases = concept_bank()
    assert 4000 < len(phrases) < 6000
    assert len({p.casefold() for p in phrases}) == len(phrases)
    assert {"an animal", "a vehicle", "indoors", "outdoors", "in a city", "in nature"} <= {*phrases}
    assert {"dog", "truck", "bicycle", "cathedral"} <= {*phrases}
    assert max(len(p.split()) for p in phrases) <= 6


def test_swapping_the_sets_swaps_the_directions(clip: Path, tmp_path: Path) -> None:
    sets = evidence(6)
    proposer = ConceptsProposer(bank(tmp_path, *PHRASES), 9, str(clip), min_z=0, device="cpu")
    found = claims(proposer, sets)
    swapped = claims(proposer, Evidence(sets.images_b, sets.images_a))
    other = {"A": "B", "B": "A"}
    assert sorted(found) == sorted((other[d], text) for d, text in swapped)
    assert claims(proposer, Evidence(sets.images_a, sets.images_a)) == []


def test_second_run_loads_no_model(clip: Path, tmp_path: Path) -> None:
    with Cache(tmp_path / "cache") as cache:
        sets, path = evidence(4), bank(tmp_path, *PHRASES)
        options: dict[str, Any] = {"device": "cpu", "runtime": Runtime(cache)}
        first = claims(ConceptsProposer(path, 9, str(clip), min_z=0, **options), sets)
        again = ConceptsProposer(path, 9, str(clip), min_z=0, **options)
        assert claims(again, sets) == first
        assert isinstance(again.encoder, OpenClipEncoder)
        assert again.encoder._ready is None  # not even loaded


def test_phrases_are_encoded_once_without_a_cache(tmp_path: Path) -> None:
    class Counting(Axes):
        encoded = 0

        def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
            self.encoded += len(texts)
            return super().encode_texts(texts)

    encoder = Counting()
    proposer = ConceptsProposer(bank(tmp_path, *Axes.texts), encoder=encoder)
    sets = evidence(4)
    assert claims(proposer, sets) == claims(proposer, sets)
    assert encoder.encoded == len(Axes.texts)


def test_too_long_phrase_is_refused(clip: Path, tmp_path: Path) -> None:
    long = "a very long phrase about nothing much at all"
    proposer = ConceptsProposer(bank(tmp_path, "a dog", long), 9, str(clip), min_z=0, device="cpu")
    found = proposer.propose(evidence(4), rng=np.random.default_rng(0))
    assert found.refused == ((long, "too long for the image-text model"),)
    assert long not in {h.text for h in found.hypotheses}


def test_damaged_images_are_left_out(clip: Path, tmp_path: Path) -> None:
    folder = folder_of_pictures(tmp_path / "a", 4)
    intact = ImageSet.open(folder)
    path = bank(tmp_path, *PHRASES)
    proposer = ConceptsProposer(path, 9, str(clip), min_z=0, device="cpu")
    b = evidence().images_b
    expected = claims(proposer, Evidence(intact.subset([0, 1, 2]), b))
    (folder / "003.png").write_bytes(b"no image")
    assert claims(proposer, Evidence(ImageSet.open(folder), b)) == expected
    for file in folder.glob("*.png"):
        file.write_bytes(b"no image")
    found = proposer.propose(Evidence(ImageSet.open(folder), b), rng=np.random.default_rng(0))
    assert not found.hypotheses
    assert found.failures


def test_encoder_of_the_ranker_is_shared_and_the_miniature_has_a_bank(clip: Path) -> None:
    shared = OpenClipEncoder("miniature", None, "cpu")
    proposer = ConceptsProposer(encoder=shared)
    assert proposer.encoder is shared
    assert proposer.phrases == world_bank()
    assert ConceptsProposer(model=str(clip)).phrases == concept_bank()
    with pytest.raises(InputError, match="a ranker without one"):
        ConceptsProposer(bank="whatever")


def test_world_bank_is_complete() -> None:
    phrases = world_bank()
    assert len(phrases) == len(set(phrases))
    for subject in world.SUBJECTS + world.PROFESSIONS:
        assert world.an(subject) in phrases
    for place in world.PLACES.values():
        assert set(place) <= set(phrases)
    for style in world.STYLES:
        assert {style, f"{style} style"} <= set(phrases)
    for tone in world.TONES:
        assert f"{tone} skin" in phrases
    assert {"a man", "a woman"} <= set(phrases)


def test_invalid_banks(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.txt \(No such file"):
        read_bank(str(tmp_path / "none.txt"))
    with pytest.raises(InputError, match="got none; write one per line"):
        read_bank(bank(tmp_path, "# only a comment", ""))
    assert read_bank(bank(tmp_path, "a dog", "", "# x", "A  dog", "cat")) == ["a dog", "cat"]
