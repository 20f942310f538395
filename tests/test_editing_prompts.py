"""Prompt files are read as they are published; seeds are parsed."""

import json
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from editing.generate.prompts import Prompt, expand, parse_seeds, read_prompts
from visdiff.errors import InputError


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("0-9", list(range(10))),
        ("3", [3]),
        ("1,5,7-9", [1, 5, 7, 8, 9]),
        (" 4 , 2-3 ", [4, 2, 3]),
        ("5-5", [5]),
        ("1-3,2,3-4", [1, 2, 3, 4]),
    ],
)
def test_seeds_are_numbers_and_ranges(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    "text", ["", "a", "-1", "1-", "1--2", "1.5", "9-0", "1,,2", "0-99999999999", str(2**63)]
)
def test_invalid_seeds_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="Expected"):
        parse_seeds(text)


@given(st.lists(st.integers(0, 10**6), min_size=1, unique=True))
def test_any_list_of_seeds_survives_a_round_trip(seeds: list[int]) -> None:
    assert parse_seeds(",".join(map(str, seeds))) == seeds


def test_a_file_of_uce_keeps_its_columns_seeds_and_artists(tmp_path: Path) -> None:
    file = tmp_path / "short_niche_art_prompts.csv"
    file.write_text(
        "case_number,prompt,evaluation_seed,artist\n"
        '0,"A cat, by Kelly McKernan",2219,Kelly McKernan\n'
        "007,Night Cafe,4965,Van Gogh\n"
    )
    first, second = read_prompts(file)
    assert (first.text, first.seed, first.guidance) == ("A cat, by Kelly McKernan", 2219, None)
    assert first.columns == {
        "case_number": "0",
        "evaluation_seed": "2219",
        "artist": "Kelly McKernan",
    }
    assert second.columns["case_number"] == "007"


def test_i2p_has_seed_and_guidance_under_either_name(tmp_path: Path) -> None:
    ours = tmp_path / "a.csv"
    ours.write_text("prompt,evaluation_seed,evaluation_guidance\nx,2868188356,7.5\ny,1,\n")
    theirs = tmp_path / "b.csv"
    theirs.write_text("prompt,sd_seed,sd_guidance_scale\nx,2868188356,7.5\ny,1,\n")
    for file in (ours, theirs):
        first, second = read_prompts(file)
        assert (first.seed, first.guidance) == (2868188356, 7.5)
        assert (second.seed, second.guidance) == (1, None)


def test_every_file_format_gives_the_same_prompts(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a dog\tand a cat", "evaluation_seed": 3, "class": "dog"},
        {"prompt": "NA", "evaluation_seed": 4, "class": "none"},
    ]
    frame = pd.DataFrame(rows)
    frame.to_csv(tmp_path / "p.csv")  # with the unnamed index column
    frame.to_csv(tmp_path / "p.tsv", sep="\t", index=False)
    frame.to_parquet(tmp_path / "p.parquet")
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    for suffix in ("csv", "tsv", "parquet", "jsonl"):
        found = read_prompts(tmp_path / f"p.{suffix}")
        assert [(p.text, p.seed, p.columns["class"]) for p in found] == [
            ("a dog\tand a cat", 3, "dog"),
            ("NA", 4, "none"),
        ], suffix
        assert set(found[0].columns) == {"evaluation_seed", "class"}, suffix


def test_plain_text_has_one_prompt_per_line(tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    file.write_text("\ufeffa church, at night\n\n  a dog \n", encoding="utf-8")
    assert [p.text for p in read_prompts(file)] == ["a church, at night", "a dog"]


def test_the_empty_prompt_is_valid_in_json_and_missing_in_csv(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": ""}\n')
    assert read_prompts(tmp_path / "p.jsonl") == [Prompt("")]
    (tmp_path / "p.csv").write_text("prompt,class\nx,1\n,2\n")
    with pytest.raises(InputError, match="row 2"):
        read_prompts(tmp_path / "p.csv")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.csv", "promt,seed\nx,1\n", "column `prompt`"),
        ("p.csv", "", "got none"),
        ("p.csv", "prompt\n", "got none"),
        ("p.txt", "\n\n", "got none"),
        ("p.csv", "prompt,seed\nx,1.5\n", "row 1"),
        ("p.csv", "prompt,seed\nx,-1\n", "row 1"),
        ("p.csv", "prompt,guidance\nx,much\n", "row 1"),
        ("p.jsonl", '{"prompt": "x"}\nnot json\n', "line 2"),
        ("p.jsonl", "[1]\n", "line 1"),
        ("p.jsonl", '{"prompt": null}\n', "row 1"),
        ("p.xlsx", "", "prompt file"),
        ("p.parquet", "no parquet", "cannot be read"),
    ],
)
def test_an_invalid_file_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_prompts(tmp_path / name)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_prompts(tmp_path / "none.csv")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
@pytest.mark.parametrize("suffix", [".csv", ".txt"])
def test_encodings_of_other_programs_are_read(
    tmp_path: Path, encoding: str, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / f"p{suffix}").write_bytes("prompt\nvoilà un café\n".encode(encoding))
    assert [p.text for p in read_prompts(tmp_path / f"p{suffix}")][-1] == "voilà un café"
    assert ("Windows-1252" in caplog.text) == (encoding == "cp1252")


def test_a_prompts_own_seed_takes_precedence_unless_ignored() -> None:
    prompts = [Prompt("a", 7, 2.0, {"class": "x"}), Prompt("b")]
    used = expand(prompts, [0, 1])
    assert [(s.prompt, s.seed) for s in used] == [("a", 7), ("b", 0), ("b", 1)]
    assert (used[0].guidance, used[0].columns) == (2.0, {"class": "x"})
    ignored = expand(prompts, [0, 1], own_seeds="ignore", own_guidance="ignore")
    assert [(s.prompt, s.seed) for s in ignored] == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert {s.guidance for s in ignored} == {None}


def test_the_error_names_a_prompt_without_a_seed() -> None:
    assert len(expand([Prompt("a", 1)], None)) == 1
    with pytest.raises(InputError, match="'b'"):
        expand([Prompt("a", 1), Prompt("b")], None)
    with pytest.raises(InputError, match="got none"):
        expand([], [0])
