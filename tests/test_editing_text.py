"""Which tokens stand for a concept, and which of a target's they take after."""

from types import SimpleNamespace
from typing import Any

import pytest
import tiny_pipelines as tiny

from editing.pipelines.text import Layout, Phrase, describe, lay_out, matched, neighbours, selected
from visdiff.errors import InputError


@pytest.fixture(scope="module")
def reader() -> Any:
    """Something with a tokenizer: all that laying out needs."""
    return SimpleNamespace(tokenizer=tiny.tokenizer())


def of(reader: Any, concept: str, template: str = "{}") -> Layout:
    return lay_out(reader, Phrase(template, concept))


def test_a_concepts_tokens_are_found_inside_its_template(reader: Any) -> None:
    layout = of(reader, "fire engine", "a photo of a {} on grass")
    words = [w.removesuffix("</w>") for w in layout.words]
    assert "".join(words[layout.first : layout.last + 1]) == "fireengine"
    assert words[layout.last + 1] == "on"
    assert layout.ids[layout.end] == reader.tokenizer.eos_token_id
    assert layout.length == reader.tokenizer.model_max_length


def test_the_empty_prompt_stands_for_itself_by_its_end_token(reader: Any) -> None:
    layout = of(reader, "")
    assert (layout.first, layout.last, layout.end) == (1, 1, 1)


def test_a_concept_without_tokens_is_refused(reader: Any) -> None:
    # The tokenizer reads its own end token, and what it does not know, as the end.
    with pytest.raises(InputError, match="which no token represents"):
        of(reader, "<|endoftext|>")


def test_a_prompt_longer_than_the_encoder_reads_is_refused(reader: Any) -> None:
    with pytest.raises(InputError, match="at most 30 tokens, got 40"):
        of(reader, "dog " * 40)


def test_two_tokenizers_must_agree() -> None:
    pipe = SimpleNamespace(tokenizer=tiny.tokenizer(), tokenizer_2=tiny.tokenizer("!"))
    assert of(pipe, "church").last == of(SimpleNamespace(tokenizer=tiny.tokenizer()), "church").last


def test_selections_are_what_they_are_called(reader: Any) -> None:
    layout = of(reader, "church", "a {}")
    assert selected(layout, "last") == [2]
    assert selected(layout, "last+eos+pad") == [2, *range(3, 32)]
    assert selected(layout, "all") == list(range(32))
    # '' has no token of its own but the end.
    for tokens in ("last+eos+pad", "words+eos+pad"):
        assert selected(of(reader, ""), tokens) == list(range(1, 32))
    engine = of(reader, "fire engine", "a {} at night")
    own = list(range(engine.first, engine.last + 1))
    assert len(own) >= 2
    assert selected(engine, "words+eos+pad") == [*own, *range(engine.end, 32)]


@pytest.mark.parametrize("tokens", ["last", "last+eos+pad", "words+eos+pad", "all", "aligned"])
def test_matching_with_itself_is_the_identity(reader: Any, tokens: Any) -> None:
    layout = of(reader, "church", "a photo of a {} at sunset")
    assert matched(layout, layout, tokens) == [(i, i) for i in selected(layout, tokens)]


@pytest.mark.parametrize("tokens", ["last", "last+eos+pad", "words+eos+pad", "all", "aligned"])
@pytest.mark.parametrize("target", ["", "fire engine", "dog"])
def test_every_selected_position_meets_one_of_the_targets(
    reader: Any, tokens: Any, target: str
) -> None:
    a, b = of(reader, "church", "a {} at night"), of(reader, target, "a {} at night")
    pairs = matched(a, b, tokens)
    assert [i for i, _ in pairs] == selected(a, tokens)
    assert all(0 <= j < b.length for _, j in pairs)
    # Nothing but the start token takes after the start token.
    assert all((i == 0) == (j == 0) for i, j in pairs)


def test_last_meets_last_end_meets_end_padding_meets_padding(reader: Any) -> None:
    a, b = of(reader, "church"), of(reader, "dog", "a big {}")
    pairs = dict(matched(a, b, "last+eos+pad"))
    assert pairs[a.last] == b.last
    assert pairs[a.end] == b.end
    assert pairs[a.end + 1] == b.end + 1
    # The target has fewer paddings: its last one serves the rest.
    assert pairs[31] == pairs[30] == 31


def test_every_word_of_a_concept_meets_one_of_the_targets_own(reader: Any) -> None:
    engine = of(reader, "fire engine", "a {} at night")
    first, last = engine.first, engine.last
    assert last > first
    dog, same = of(reader, "dog", "a {} at night"), of(reader, "fire hydrant", "a {} at night")
    pairs = dict(matched(engine, dog, "words+eos+pad"))
    assert pairs[last] == dog.last
    assert all(dog.first <= pairs[i] <= dog.last for i in range(first, last + 1)), "not the article"
    pairs = dict(matched(engine, same, "words+eos+pad"))
    assert (pairs[last], pairs[last - 1]) == (same.last, same.last - 1)
    nothing = of(reader, "", "a {} at night")
    pairs = dict(matched(engine, nothing, "words+eos+pad"))
    assert {pairs[i] for i in range(first, last + 1)} == {nothing.end}


def test_nothing_in_particular_is_met_by_its_end_token(reader: Any) -> None:
    church = of(reader, "church")
    assert matched(church, of(reader, ""), "last") == [(church.last, 1)]


def test_aligned_tokens_meet_the_same_word(reader: Any) -> None:
    a, b = of(reader, "a dog on grass"), of(reader, "a big dog on the grass")
    pairs = dict(matched(a, b, "aligned"))
    for i in range(1, a.end):
        assert a.words[i] == b.words[pairs[i]]


def test_aligned_words_without_counterpart_meet_what_stands_in_their_place(reader: Any) -> None:
    a, b = of(reader, "a dog at night"), of(reader, "a cat at night")
    pairs = dict(matched(a, b, "aligned"))
    assert b.words[pairs[2]] == "cat</w>"


def test_the_user_is_shown_indices_and_words(reader: Any) -> None:
    layout = of(reader, "church")
    assert describe(layout, selected(layout, "last+eos+pad")) == [
        {"index": 1, "token": "church</w>"},
        {"index": 2, "token": "end"},
        {"index": "3–31", "token": "padding"},
    ]


def test_neighbours_are_whole_words_and_not_the_concept() -> None:
    pipe = tiny.sd1()
    table = pipe.text_encoder.get_input_embeddings().weight
    ids = pipe.tokenizer.convert_tokens_to_ids(["church</w>", "castle</w>"])
    with_neighbour = table.data.clone()
    with_neighbour[ids[1]] = with_neighbour[ids[0]] * 1.1
    table.data = with_neighbour
    found = neighbours(pipe, "church", 5)
    assert found[0] == "castle"
    assert len(found) == 5
    assert "church" not in found
    assert all(word.isalpha() for word in found)


def test_a_pipeline_without_tokenizer_is_refused() -> None:
    with pytest.raises(InputError, match="a pipeline with a tokenizer"):
        of(SimpleNamespace(), "church")
