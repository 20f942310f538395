"""Hypotheses that are given: the user's own, and phrases of a bank by their features."""

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

EVERY = ["a dog", "a cat", "red", "on sand", "at night", "snow", "a bus"]


def evidence(n: int = 3, **more: Any) -> Evidence:
    return Evidence(ImageSet.open(pictures(n, 1)), ImageSet.open(pictures(n, 2)), **more)


def claims(proposer: Any, told: Evidence | None = None) -> list[tuple[str, str]]:
    found = proposer.propose(told or evidence(), rng=np.random.default_rng(0))
    return [(h.direction, h.text) for h in found.hypotheses]


def test_prefixes_say_the_direction_and_without_one_it_is_both() -> None:
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


def test_repeats_are_one() -> None:
    assert claims(ManualProposer(["A: a dog", "A: A Dog", "a dog"])) == [
        ("A", "a dog"),
        ("B", "a dog"),
    ]


def test_a_file_and_a_list(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes("\ufeff# my ideas\n\nA: a café\r\n  B: at night\n".encode())
    assert claims(ManualProposer(["B: snow"], str(path))) == [
        ("B", "snow"),
        ("A", "a café"),
        ("B", "at night"),
    ]


def test_what_a_user_may_get_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"got none; give proposer\.hypotheses"):
        ManualProposer()
    with pytest.raises(InputError, match=r"missing\.txt, which cannot be read"):
        ManualProposer(file=str(tmp_path / "missing.txt"))
    with pytest.raises(InputError, match="got 'A: '"):
        ManualProposer(["A: "])
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"bad\.txt, which cannot be read"):
        ManualProposer(file=str(tmp_path / "bad.txt"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_open_clip(tmp_path_factory.mktemp("weights") / "clip")


def bank(folder: Path, *phrases: str) -> str:
    path = folder / "bank.txt"
    path.write_text("\n".join(phrases), "utf-8")
    return str(path)


def test_the_nearest_phrases_to_the_difference_of_the_means(clip: Path, tmp_path: Path) -> None:
    told = evidence(6)
    encoder = OpenClipEncoder(str(clip), None, "cpu")
    means = [
        np.mean([np.array(encoder([encoder.prepare(image)])[0]) for image in images], axis=0)
        for images in (told.images_a, told.images_b)
    ]
    along = encoder.encode_texts(EVERY) @ (means[0] - means[1])
    proposer = ConceptsProposer(bank(tmp_path, *EVERY), 2, str(clip), device="cpu")
    best = [EVERY[i] for i in np.argsort(-along)[:2] if along[i] > 0]
    least = [EVERY[i] for i in np.argsort(along)[:2] if along[i] < 0]
    assert claims(proposer, told) == [("A", t) for t in best] + [("B", t) for t in least]
    assert best or least


def test_swapping_the_sets_swaps_the_directions(clip: Path, tmp_path: Path) -> None:
    told = evidence(6)
    proposer = ConceptsProposer(bank(tmp_path, *EVERY), 9, str(clip), device="cpu")
    there, back = claims(proposer, told), claims(proposer, Evidence(told.images_b, told.images_a))
    other = {"A": "B", "B": "A"}
    assert sorted(there) == sorted((other[d], text) for d, text in back)
    assert claims(proposer, Evidence(told.images_a, told.images_a)) == []


def test_a_second_run_computes_nothing(clip: Path, tmp_path: Path) -> None:
    with Cache(tmp_path / "cache") as cache:
        told, path = evidence(4), bank(tmp_path, *EVERY)
        more: dict[str, Any] = {"device": "cpu", "runtime": Runtime(cache)}
        first = claims(ConceptsProposer(path, 9, str(clip), **more), told)
        again = ConceptsProposer(path, 9, str(clip), **more)
        assert claims(again, told) == first
        assert isinstance(again.encoder, OpenClipEncoder)
        assert again.encoder._ready is None  # not even loaded


def test_a_phrase_that_is_too_long_is_refused(clip: Path, tmp_path: Path) -> None:
    long = "a very long phrase about nothing much at all"
    proposer = ConceptsProposer(bank(tmp_path, "a dog", long), 9, str(clip), device="cpu")
    found = proposer.propose(evidence(4), rng=np.random.default_rng(0))
    assert found.refused == ((long, "too long for the image-text model"),)
    assert long not in {h.text for h in found.hypotheses}


def test_damaged_images_are_left_out(clip: Path, tmp_path: Path) -> None:
    folder = folder_of_pictures(tmp_path / "a", 4)
    whole = ImageSet.open(folder)
    path = bank(tmp_path, *EVERY)
    proposer = ConceptsProposer(path, 9, str(clip), device="cpu")
    b = evidence().images_b
    expected = claims(proposer, Evidence(whole.subset([0, 1, 2]), b))
    (folder / "003.png").write_bytes(b"no image")
    assert claims(proposer, Evidence(ImageSet.open(folder), b)) == expected
    for file in folder.glob("*.png"):
        file.write_bytes(b"no image")
    found = proposer.propose(Evidence(ImageSet.open(folder), b), rng=np.random.default_rng(0))
    assert not found.hypotheses
    assert found.failures


def test_the_rankers_encoder_is_shared_and_the_miniature_has_its_own_bank(clip: Path) -> None:
    shared = OpenClipEncoder("miniature", None, "cpu")
    proposer = ConceptsProposer(encoder=shared)
    assert proposer.encoder is shared
    assert proposer.phrases == world_bank()
    with pytest.raises(InputError, match=r"expected proposer\.bank"):
        ConceptsProposer(model=str(clip))
    with pytest.raises(InputError, match="ranker has none to share"):
        ConceptsProposer(bank="whatever")


def test_the_worlds_bank_names_all_of_it() -> None:
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


def test_banks_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.txt, which cannot be read"):
        read_bank(str(tmp_path / "none.txt"))
    with pytest.raises(InputError, match="got none; write one a line"):
        read_bank(bank(tmp_path, "# only a comment", ""))
    assert read_bank(bank(tmp_path, "a dog", "", "# x", "A  dog", "cat")) == ["a dog", "cat"]
