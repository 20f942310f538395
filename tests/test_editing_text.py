"""Token positions of concepts, and their matching positions in a target."""

from types import SimpleNamespace
from typing import Any

import pytest
import tiny_pipelines as tiny

from editing.pipelines.text import Layout, Phrase, describe, lay_out, matched, neighbours, selected
from visdiff.errors import InputError


@pytest.fixture(scope="module")
def reader() -> Any:
    """An object with a tokenizer, all that `lay_out` needs."""
    return SimpleNamespace(tokenizer=tiny.tokenizer())


def layout_of(reader: Any, concept: str, template: str = "{}") -> Layout:
    return lay_out(reader, Phrase(template, concept))


def test_a_concepts_tokens_are_found_inside_its_template(reader: Any) -> None:
    layout = layout_of(reader, "fire engine", "a photo of a {} on grass")
    words = [w.removesuffix("</w>") for w in layout.words]
    assert "".join(words[layout.first : layout.last + 1]) == "fireengine"
    assert words[layout.last + 1] == "on"
    assert layout.ids[layout.end] == reader.tokenizer.eos_token_id
    assert layout.length == reader.tokenizer.model_max_length


def test_the_empty_prompt_is_represented_by_its_end_token(reader: Any) -> None:
    layout = layout_of(reader, "")
    assert (layout.first, layout.last, layout.end) == (1, 1, 1)


def test_a_concept_without_tokens_is_refused(reader: Any) -> None:
    # The tokenizer maps its end token and unknown text to the end token.
    with pytest.raises(InputError, match="which no token represents"):
        layout_of(reader, "<|endoftext|>")


def test_a_prompt_that_is_too_long_is_refused(reader: Any) -> None:
    with pytest.raises(InputError, match="at most 30 tokens, got 40"):
        layout_of(reader, "dog " * 40)


def test_two_tokenizers_must_agree() -> None:
    pipe = SimpleNamespace(tokenizer=tiny.tokenizer(), tokenizer_2=tiny.tokenizer("!"))
    assert (
        layout_of(pipe, "church").last
        == layout_of(SimpleNamespace(tokenizer=tiny.tokenizer()), "church").last
    )


def test_selected_positions(reader: Any) -> None:
    layout = layout_of(reader, "church", "a {}")
    assert selected(layout, "last") == [2]
    assert selected(layout, "last+eos+pad") == [2, *range(3, 32)]
    assert selected(layout, "all") == list(range(32))
    # The only token of '' is the end token.
    for tokens in ("last+eos+pad", "words+eos+pad"):
        assert selected(layout_of(reader, ""), tokens) == list(range(1, 32))
    engine = layout_of(reader, "fire engine", "a {} at night")
    own = list(range(engine.first, engine.last + 1))
    assert len(own) >= 2
    assert selected(engine, "words+eos+pad") == [*own, *range(engine.end, 32)]


@pytest.mark.parametrize("tokens", ["last", "last+eos+pad", "words+eos+pad", "all", "aligned"])
def test_matching_with_itself_is_the_identity(reader: Any, tokens: Any) -> None:
    layout = layout_of(reader, "church", "a photo of a {} at sunset")
    assert matched(layout, layout, tokens) == [(i, i) for i in selected(layout, tokens)]


@pytest.mark.parametrize("tokens", ["last", "last+eos+pad", "words+eos+pad", "all", "aligned"])
@pytest.mark.parametrize("target", ["", "fire engine", "dog"])
def test_every_selected_position_matches_a_position_of_the_target(
    reader: Any, tokens: Any, target: str
) -> None:
    a, b = layout_of(reader, "church", "a {} at night"), layout_of(reader, target, "a {} at night")
    pairs = matched(a, b, tokens)
    assert [i for i, _ in pairs] == selected(a, tokens)
    assert all(0 <= j < b.length for _, j in pairs)
    # Only the start token matches the start token.
    assert all((i == 0) == (j == 0) for i, j in pairs)


def test_last_end_and_padding_tokens_match_their_counterparts(reader: Any) -> None:
    a, b = layout_of(reader, "church"), layout_of(reader, "dog", "a big {}")
    pairs = dict(matched(a, b, "last+eos+pad"))
    assert pairs[a.last] == b.last
    assert pairs[a.end] == b.end
    assert pairs[a.end + 1] == b.end + 1
    # The target has fewer padding tokens, so its last one matches the rest.
    assert pairs[31] == pairs[30] == 31


def test_every_word_of_a_concept_matches_a_word_of_the_target(reader: Any) -> None:
    engine = layout_of(reader, "fire engine", "a {} at night")
    first, last = engine.first, engine.last
    assert last > first
    dog, same = (
        layout_of(reader, "dog", "a {} at night"),
        layout_of(reader, "fire hydrant", "a {} at night"),
    )
    pairs = dict(matched(engine, dog, "words+eos+pad"))
    assert pairs[last] == dog.last
    assert all(dog.first <= pairs[i] <= dog.last for i in range(first, last + 1)), "not the article"
    pairs = dict(matched(engine, same, "words+eos+pad"))
    assert (pairs[last], pairs[last - 1]) == (same.last, same.last - 1)
    nothing = layout_of(reader, "", "a {} at night")
    pairs = dict(matched(engine, nothing, "words+eos+pad"))
    assert {pairs[i] for i in range(first, last + 1)} == {nothing.end}


def test_the_empty_target_is_matched_by_its_end_token(reader: Any) -> None:
    church = layout_of(reader, "church")
    assert matched(church, layout_of(reader, ""), "last") == [(church.last, 1)]


def test_aligned_tokens_match_the_same_word(reader: Any) -> None:
    a, b = layout_of(reader, "a dog on grass"), layout_of(reader, "a big dog on the grass")
    pairs = dict(matched(a, b, "aligned"))
    for i in range(1, a.end):
        assert a.words[i] == b.words[pairs[i]]


def test_an_article_is_aligned_with_the_other_form(reader: Any) -> None:
    a, b = layout_of(reader, "an apple"), layout_of(reader, "a green apple")
    pairs = dict(matched(a, b, "aligned"))
    assert (a.words[1], b.words[pairs[1]]) == ("an</w>", "a</w>")
    assert [b.words[pairs[i]] for i in range(2, a.end)] == list(a.words[2 : a.end])


def test_aligned_words_without_counterpart_match_the_word_in_their_place(reader: Any) -> None:
    a, b = layout_of(reader, "a dog at night"), layout_of(reader, "a cat at night")
    pairs = dict(matched(a, b, "aligned"))
    assert b.words[pairs[2]] == "cat</w>"


def test_describe_lists_indices_and_words(reader: Any) -> None:
    layout = layout_of(reader, "church")
    assert describe(layout, selected(layout, "last+eos+pad")) == [
        {"index": 1, "token": "church</w>"},
        {"index": 2, "token": "end"},
        {"index": "3–31", "token": "padding"},
    ]


def test_neighbours_are_complete_words_other_than_the_concept() -> None:
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
        layout_of(SimpleNamespace(), "church")


def test_rows_that_pad_the_table_hide_no_neighbours() -> None:
    pipe = tiny.sd1()
    before = neighbours(pipe, "dog", 3)
    (own,) = pipe.tokenizer("dog", add_special_tokens=False)["input_ids"]
    pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer) + 8, mean_resizing=False)
    table = pipe.text_encoder.get_input_embeddings().weight.data
    table[-8:] = table[own]
    assert neighbours(pipe, "dog", 3) == before
