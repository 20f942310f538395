"""Identifiers: one token in every tokenizer, how rare, and what the untaught model draws."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines as tiny
from typer.testing import CliRunner

from editing.cli.personalize import app
from editing.personalize.identifier import check_identifier, identifier_run, rare_identifiers
from editing.pipelines.loading import load_pipeline
from editing.pipelines.sampling import Settings
from visdiff.errors import InputError

runner = CliRunner()


@pytest.fixture(scope="module")
def miniature() -> Any:
    return load_pipeline("miniature")


@pytest.mark.parametrize(("make", "count"), [(tiny.sd1, 1), (tiny.sdxl, 2)])
def test_a_rare_word_is_one_token_in_every_tokenizer(make: Callable[[], Any], count: int) -> None:
    check = check_identifier(make(), "olis", "dog")
    assert check.single
    assert [e.pieces for e in check.encodings] == [("olis</w>",)] * count
    assert all(e.rarity is not None and e.rarity > 0.99 for e in check.encodings)
    assert check.warnings == ()
    assert check.nearest


def test_pieces_are_named_by_tokenizer() -> None:
    check = check_identifier(tiny.flux(), "olis")
    assert [e.single for e in check.encodings] == [True, False]
    assert not check.single
    assert "5 tokens in tokenizer_2 (▁, o, l, i, s)" in check.warnings[0]


def test_characters_without_a_token_are_a_warning() -> None:
    warnings = check_identifier(tiny.flux(), "狗").warnings
    assert any("without a token in tokenizer_2" in w for w in warnings)


def test_a_token_of_textual_inversion_is_single_once_it_exists() -> None:
    pipe = tiny.sd1()
    assert "textual inversion adds it" in check_identifier(pipe, "<olis>").warnings[0]
    pipe.tokenizer.add_tokens("<olis>")
    pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer))
    check = check_identifier(pipe, "<olis>")
    assert check.single
    assert check.encodings[0].rank is None


@pytest.mark.parametrize(("noun", "word"), [("fox", "fox"), ("dog toy", "toy")])
def test_a_noun_that_is_no_word_of_the_vocabulary_is_a_warning(noun: str, word: str) -> None:
    (warning,) = check_identifier(tiny.sdxl(), "olis", noun).warnings
    assert f"The noun '{word}' is no word of the vocabulary" in warning


def test_frequent_and_learnt_words_are_warnings(miniature: Any) -> None:
    assert "is a common token" in check_identifier(miniature, "style").warnings[0]
    assert "has learnt a meaning" in check_identifier(miniature, "zebra").warnings[0]


def test_proposed_identifiers_are_rare_and_unused(miniature: Any) -> None:
    found = rare_identifiers(miniature, 5)
    assert found[0] == "olis"
    assert len(found) == 5
    assert all(not check_identifier(miniature, word).warnings for word in found)
    assert rare_identifiers(miniature, 0) == []


def test_images_of_the_untaught_model_are_resumed(tmp_path: Path) -> None:
    pipe = tiny.sd1()
    check = check_identifier(pipe, "olis", "dog")
    make = lambda n: identifier_run(pipe, check, tmp_path, n, settings=Settings(2))  # noqa: E731
    first = make(1).start()
    assert first.made == 3
    rows = [json.loads(line) for line in first.manifest.read_text().splitlines()]
    assert [r["prompt"] for r in rows] == list(check.prompts)
    assert {r["seed"] for r in rows} == {0}
    second = make(2).start()
    assert (second.made, second.reused) == (3, 3)


@pytest.mark.parametrize("text", ["", "two words", " olis"])
def test_bad_identifiers_are_one_sentence(text: str) -> None:
    with pytest.raises(InputError, match="Expected an identifier without spaces"):
        check_identifier(tiny.sd1(), text)


def test_a_pipeline_without_tokenizer_is_one_sentence() -> None:
    with pytest.raises(InputError, match="Expected a pipeline with a tokenizer"):
        check_identifier(tiny.unconditional(), "olis")


def test_the_command_prints_json_and_warnings() -> None:
    ran = runner.invoke(
        app, ["identifier", "miniature", "olis", "--noun", "fox", "--propose", "2", "--json"]
    )
    assert ran.exit_code == 0, ran.output
    result = json.loads(ran.stdout)
    assert result["single"] is True
    assert result["proposed"][0] == "olis"
    assert "warning: The noun 'fox'" in ran.stderr
