"""Training captions: the cases of SID's table 1 are recognised and made (arXiv 2403.15330)."""

import pytest

from editing.personalize.captions import (
    INSTRUCTION,
    Case,
    case_of,
    check_caption,
    has_identifier,
    insert_identifier,
    reduced,
    replace_identifier,
)
from visdiff.errors import InputError

CAPTIONS = {
    "a olis dog": Case.NOUN,
    "a photo of a olis dog": Case.NOUN,
    "a olis dog sitting": Case.NOUN,
    "a olis dog on a couch": Case.OTHERS,
    "a olis dog next to a ball and a shoe": Case.OTHERS,
    "a olis dog on a green couch": Case.SID,
    "a olis dog sitting on the fluffy blanket and green couch": Case.SID,
    "a olis dog next to a black Prada purse with silver hardware on white sheets": Case.SID,
    "a olis dog sits, at night": Case.OTHERS,
    "the olis dog sleeps": Case.NOUN,
    "a portrait of olis dog": Case.NOUN,
    "a olis dog in front of a tall building": Case.SID,
    "a olis dog on a couch, a ball": Case.OTHERS,
    "a olis dog under the night sky, on a rug": Case.SID,
    "a brown olis dog": Case.SUBJECT_DETAILS,
    "a brown and white olis dog": Case.SUBJECT_DETAILS,
    "a big, fluffy olis dog": Case.SUBJECT_DETAILS,
    "a olis brown dog on a couch": Case.SUBJECT_DETAILS,
    "a olis dog with floppy ears on a green couch": Case.SUBJECT_DETAILS,
    "a olis dog with brown fur": Case.SUBJECT_DETAILS,
}


@pytest.mark.parametrize(("caption", "case"), CAPTIONS.items())
def test_each_case_is_recognised(caption: str, case: Case) -> None:
    assert case_of(caption, "dog", "olis").case is case


def test_a_thing_that_the_subject_wears_is_not_a_detail_of_it() -> None:
    checked = check_caption("a olis dog with a red scarf in a park", "dog", "olis")
    assert checked.case is Case.SID
    assert checked.others == ("red scarf", "park")


def test_details_of_the_subject_are_refused_and_named() -> None:
    with pytest.raises(InputError, match=r"to the identifier, got its details \(brown\)"):
        check_caption("a brown olis dog", "dog", "olis")


def test_a_caption_without_the_identifier_is_refused() -> None:
    with pytest.raises(InputError, match="Expected the identifier directly before the noun"):
        check_caption("a dog on a green couch", "dog", "olis")


@pytest.mark.parametrize("caption", ["a couch", "a dog next to a dog"])
def test_the_noun_has_to_be_there_once(caption: str) -> None:
    with pytest.raises(InputError, match="names the class noun 'dog' once"):
        case_of(caption, "dog", "olis")


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a dog on a couch", "a olis dog on a couch"),
        ("A dog", "A olis dog"),
        ("a [identifier] dog", "a olis dog"),
        ("a photo of [trigger]", "a photo of olis"),
        ("a <olis> dog", "a <olis> olis dog"),
        ("a olis dog", "a olis dog"),
        ("the dog sleeps", "the olis dog sleeps"),
    ],
)
def test_the_identifier_is_inserted_before_the_noun(caption: str, expected: str) -> None:
    assert insert_identifier(caption, "dog", "olis") == expected


def test_a_caption_without_the_noun_cannot_take_an_identifier() -> None:
    with pytest.raises(InputError, match="Expected a caption with the class noun"):
        insert_identifier("a cat", "dog", "olis")


@pytest.mark.parametrize("caption", [c for c, case in CAPTIONS.items() if case is Case.SID])
@pytest.mark.parametrize("case", [Case.NOUN, Case.OTHERS, Case.SID])
def test_a_sid_caption_is_reduced_to_each_poorer_case(caption: str, case: Case) -> None:
    assert case_of(reduced(caption, "dog", "olis", case), "dog", "olis").case is case


def test_reducing_keeps_articles_correct() -> None:
    text = reduced("a olis dog on an old green couch and a big apple", "dog", "olis", Case.OTHERS)
    assert text == "a olis dog on a couch and an apple"


def test_case_4_cannot_be_made_from_a_caption() -> None:
    with pytest.raises(InputError, match="Expected case 1, 2 or 3, got case 4"):
        reduced("a olis dog", "dog", "olis", Case.SUBJECT_DETAILS)


def test_the_instruction_names_the_subject() -> None:
    assert "a dog" in INSTRUCTION.format(noun="dog")


@pytest.mark.parametrize("identifier", ["<olis>", "V*", "olis", "<new-1>", "x.y"])
def test_an_identifier_of_any_signs_is_one_word(identifier: str) -> None:
    caption = insert_identifier("a dog on a green couch", "dog", identifier)
    assert caption == f"a {identifier} dog on a green couch"
    assert insert_identifier(caption, "dog", identifier) == caption
    assert check_caption(caption, "dog", identifier).case is Case.SID
    assert case_of(f"a brown {identifier} dog", "dog", identifier).subject_details == ("brown",)
    assert reduced(caption, "dog", identifier, Case.OTHERS) == f"a {identifier} dog on a couch"


@pytest.mark.parametrize("text", ["a <olis> dog", "a trolis dog", "a olis2 dog", "a dog"])
def test_a_part_of_a_word_is_not_the_identifier(text: str) -> None:
    assert not has_identifier(text, "olis")
    assert replace_identifier(text, "olis", "zwx") == text
    with pytest.raises(InputError, match="Expected the identifier directly before"):
        check_caption(text, "dog", "olis")


def test_an_identifier_is_replaced_by_another() -> None:
    text = replace_identifier("a olis dog, Olis", "olis", r"<\1>")
    assert text == r"a <\1> dog, <\1>"
