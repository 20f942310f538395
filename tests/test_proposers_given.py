"""Tests of proposers of given texts: the user's hypotheses, and phrases of a bank."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import folder_of_pictures, pictures, save_open_clip

from visdiff.cache import Cache
from visdiff.encoders.open_clip import OpenClipEncoder
from visdiff.engine import Runtime
from visdiff.errors import InputError
from visdiff.imageset import ImageSet
from visdiff.miniature import world
from visdiff.proposers import Evidence
from visdiff.proposers.concepts import ConceptsProposer, read_bank, world_bank
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


def test_phrases_closest_to_the_difference_of_the_means(clip: Path, tmp_path: Path) -> None:
    sets = evidence(6)
    encoder = OpenClipEncoder(str(clip), None, "cpu")
    means = [
        np.mean([np.array(encoder([encoder.prepare(image)])[0]) for image in images], axis=0)
        for images in (sets.images_a, sets.images_b)
    ]
    products = encoder.encode_texts(PHRASES) @ (means[0] - means[1])
    proposer = ConceptsProposer(bank(tmp_path, *PHRASES), 2, str(clip), device="cpu")
    best = [PHRASES[i] for i in np.argsort(-products)[:2] if products[i] > 0]
    worst = [PHRASES[i] for i in np.argsort(products)[:2] if products[i] < 0]
    assert claims(proposer, sets) == [("A", t) for t in best] + [("B", t) for t in worst]
    assert best or worst


def test_swapping_the_sets_swaps_the_directions(clip: Path, tmp_path: Path) -> None:
    sets = evidence(6)
    proposer = ConceptsProposer(bank(tmp_path, *PHRASES), 9, str(clip), device="cpu")
    found = claims(proposer, sets)
    swapped = claims(proposer, Evidence(sets.images_b, sets.images_a))
    other = {"A": "B", "B": "A"}
    assert sorted(found) == sorted((other[d], text) for d, text in swapped)
    assert claims(proposer, Evidence(sets.images_a, sets.images_a)) == []


def test_second_run_loads_no_model(clip: Path, tmp_path: Path) -> None:
    with Cache(tmp_path / "cache") as cache:
        sets, path = evidence(4), bank(tmp_path, *PHRASES)
        options: dict[str, Any] = {"device": "cpu", "runtime": Runtime(cache)}
        first = claims(ConceptsProposer(path, 9, str(clip), **options), sets)
        again = ConceptsProposer(path, 9, str(clip), **options)
        assert claims(again, sets) == first
        assert isinstance(again.encoder, OpenClipEncoder)
        assert again.encoder._ready is None  # not even loaded


def test_too_long_phrase_is_refused(clip: Path, tmp_path: Path) -> None:
    long = "a very long phrase about nothing much at all"
    proposer = ConceptsProposer(bank(tmp_path, "a dog", long), 9, str(clip), device="cpu")
    found = proposer.propose(evidence(4), rng=np.random.default_rng(0))
    assert found.refused == ((long, "too long for the image-text model"),)
    assert long not in {h.text for h in found.hypotheses}


def test_damaged_images_are_left_out(clip: Path, tmp_path: Path) -> None:
    folder = folder_of_pictures(tmp_path / "a", 4)
    intact = ImageSet.open(folder)
    path = bank(tmp_path, *PHRASES)
    proposer = ConceptsProposer(path, 9, str(clip), device="cpu")
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
    with pytest.raises(InputError, match=r"Expected proposer\.bank"):
        ConceptsProposer(model=str(clip))
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
