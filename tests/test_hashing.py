"""Canonical JSON, cache keys and digests."""

import enum
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visdiff import hashing
from visdiff.errors import InputError

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def test_the_format_has_not_changed() -> None:
    # Caches outlive releases. If this fails, increase hashing.VERSION and the expected value.
    parts = {
        "model": "ViT-B-32",
        "scale": 0.1,
        "n": 3,
        "text": "é\n",
        "none": None,
        "l": [True, {}],
    }
    assert hashing.canonical_json(parts) == (
        '{"l":[true,{}],"model":"ViT-B-32","n":3,"none":null,"scale":0.1,"text":"\\u00e9\\n"}'
    )
    assert hashing.key("caption", parts) == "v1-77f0df33e1cad3d2e01b92a4e936584314a56398"


def test_format_of_keys() -> None:
    name = hashing.key("caption", {})
    assert name.startswith("v1-")
    assert len(name) == 43


@settings(max_examples=30)
@given(JSON)
def test_canonical_json_is_ascii_without_whitespace_and_stable(value: Any) -> None:
    text = hashing.canonical_json(value)
    assert text.isascii()
    assert hashing.canonical_json(value) == text


def test_order_of_keys_and_type_of_sequence_do_not_matter() -> None:
    assert hashing.key("k", {"a": 1, "b": (1, 2)}) == hashing.key("k", {"b": [1, 2], "a": 1})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, {"a": "1"}),
        ({"a": 1}, {"a": 1.0}),
        ({"a": 1}, {"a": True}),
        ({"a": None}, {}),
        ({"a": ["b", "c"]}, {"a": ["b,c"]}),
        ({"a": {"b": 1}}, {"a": 1, "b": 1}),
    ],
)
def test_different_parts_have_different_keys(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert hashing.key("k", one) != hashing.key("k", other)


def test_kind_is_part_of_the_key_and_reserved() -> None:
    assert hashing.key("a", {"x": 1}) != hashing.key("b", {"x": 1})
    with pytest.raises(InputError, match="kind"):
        hashing.key("a", {"kind": "b"})


@pytest.mark.parametrize(
    "bad",
    [
        math.nan,
        math.inf,
        {1, 2},
        b"bytes",
        {1: "a"},
        object(),
        Path("x"),
        np.float32(1),
        [math.nan],
    ],
)
def test_values_without_json_raise(bad: Any) -> None:
    with pytest.raises(InputError, match=r"at value\.deep"):
        hashing.canonical_json({"deep": bad})


def test_subclasses_of_numbers_are_plain_numbers() -> None:
    class Level(enum.IntEnum):
        ONE = 1

    assert hashing.canonical_json([Level.ONE, np.float64(0.5)]) == "[1,0.5]"


def test_digests_are_sha256(tmp_path: Path) -> None:
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "f").write_bytes(b"abc")
    assert hashing.digest_bytes(b"abc") == known
    assert hashing.digest_file(tmp_path / "f") == known


def model(folder: Path) -> Path:
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "sub" / "model.safetensors").write_bytes(b"weights")
    return folder


def test_weights_digest_depends_on_content_not_path(tmp_path: Path) -> None:
    one, other = model(tmp_path / "one"), model(tmp_path / "other")
    digest = hashing.weights_digest(one)
    (other / "README.md").write_text("does not change an output")
    (other / ".cache").mkdir()
    (other / ".cache" / "x.json").write_text("{}")
    assert hashing.weights_digest(other) == digest


def test_weights_digest_changes_with_a_byte_and_with_a_moved_file(tmp_path: Path) -> None:
    one = model(tmp_path / "one")
    before = hashing.weights_digest(one)
    (one / "sub" / "model.safetensors").write_bytes(b"weighty")
    changed = hashing.weights_digest(one)
    (one / "sub" / "model.safetensors").rename(one / "model.safetensors")
    assert len({before, changed, hashing.weights_digest(one)}) == 3


def test_weights_digest_of_missing_files_raises(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing-here"):
        hashing.weights_digest(tmp_path / "nothing-here")
    with pytest.raises(InputError, match="got none"):
        hashing.weights_digest(tmp_path)
