"""Words of class prompts by a chat model, and files of pools."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from chatserver import Answer, Call, ChatServer, says
from typer.testing import CliRunner

from editing.cli.personalize import app
from editing.personalize.instructions import POOL_SLOTS
from editing.personalize.regularization import Kind, Pools, class_prompts
from editing.personalize.word_pools import SIZES, ask_pools, question
from visdiff.errors import InputError
from visdiff.llm import Failure, Request
from visdiff.llm.scripted import ScriptedChat

runner = CliRunner()


def words(text: str, prefix: str = "word") -> str:
    """As many new words as are asked for, some of them twice."""
    found = re.search(r"List (\d+)", text)
    known = len(text.partition("Leave out: ")[2].split(","))
    assert found
    new = [f"{prefix} {known + i}" for i in range(int(found[1]))]
    return json.dumps({"words": [*new, new[0].upper()]})


def text_of(request: Request) -> str:
    return str(request.messages[0].parts[0])


@pytest.mark.parametrize("kind", ["thing", "living", "person"])
def test_every_slot_gets_its_number_of_words(kind: Kind) -> None:
    chat = ScriptedChat(lambda request: words(text_of(request)), vision=False)
    asked = ask_pools("backpack", kind, chat, most=70, evaluation=())
    assert asked.failures == {}
    bundled = Pools.of(kind, ())
    assert list(asked.pools.adjectives) == list(bundled.adjectives)
    for entries in (*asked.pools.adjectives.values(), asked.pools.settings, asked.pools.styles):
        assert len(set(entries)) == len(entries) == 70
    assert asked.pools.photographic == bundled.photographic
    assert all(slot in SIZES and slot in POOL_SLOTS for slot in bundled.adjectives)


def test_words_of_evaluation_prompts_are_left_out() -> None:
    chat = ScriptedChat(
        lambda request: json.dumps(
            {"words": ["in the snow", "in a barn"] if "places" in text_of(request) else ["odd"]}
        )
    )
    pools = ask_pools("backpack", "thing", chat, most=2).pools
    assert pools.settings == ("in a barn",)
    assert pools.excluded == ("in the snow",)


def test_replies_that_are_no_words_are_refused_and_named() -> None:
    reply = json.dumps({"words": ["1. round", "- Round", "a round old worn thing", "dog-like", ""]})
    asked = ask_pools("dog", "thing", ScriptedChat(lambda _: reply), evaluation=())
    assert asked.pools.adjectives["shape"] == ("round",)
    assert "shape: a round old worn thing" in asked.refused
    assert "shape: dog-like" in asked.refused
    assert asked.failures["shape"] == "1 of 85 words"


def test_a_slot_that_fails_keeps_the_bundled_words() -> None:
    def reply(request: Request) -> str | Failure:
        if "colours" in text_of(request):
            return Failure("timed out", "timeout")
        return words(text_of(request))

    asked = ask_pools("dog", "thing", ScriptedChat(reply), most=3, evaluation=())
    assert asked.pools.adjectives["colour"] == Pools.of("thing", ()).adjectives["colour"]
    assert asked.failures == {
        "colour": "no words from the model (timed out); the bundled ones are used"
    }


def test_a_question_gives_an_example_of_its_slot() -> None:
    assert "'a round dog'" in question("shape", "dog", "thing", 5)
    assert "List 5 different adjectives" in question("shape", "dog", "thing", 5)
    assert "of a dog'" in question("styles", "dog", "living", 5)
    assert "Leave out: walking" in question("motions", "dog", "living", 5, ["walking"])


def test_a_file_of_pools_is_read_back(tmp_path: Path) -> None:
    file = tmp_path / "pools.toml"
    pools = Pools.of("living")
    pools.write(file, {"noun": "dog", "model": "m", "prompts": "p@1"})
    assert Pools.read(file) == pools
    first = class_prompts("dog", Pools.read(file), 20, np.random.default_rng(0))
    assert [p.text for p in first] == [
        p.text for p in class_prompts("dog", pools, 20, np.random.default_rng(0))
    ]


def test_slots_of_a_file_are_free(tmp_path: Path) -> None:
    file = tmp_path / "pools.toml"
    file.write_text(
        'kind = "thing"\nslots = ["era"]\nera = ["old"]\nsettings = ["on a shelf", "in the snow"]\n'
    )
    pools = Pools.read(file)
    assert pools.settings == ("on a shelf",)
    prompt = class_prompts("vase", pools, 1, np.random.default_rng(0))[0]
    assert prompt.text.endswith("an old vase on a shelf")


def make(text: str) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        file.write_text(text)

    return write


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda file: None, "Expected a TOML file of pools"),
        (make("kind ="), "Expected TOML in"),
        (make('kind = "plant"'), "Expected the kind of a class"),
        (make('kind = "thing"\nsettings = ["on a shelf"]'), "words in the array 'shape'"),
        (make('kind = "thing"\nslots = 5'), "words in the array 'slots'"),
        (make('kind = "thing"\nsettings = 5\nshape = 1'), "array 'shape'"),
        (make('kind = "thing"\nshapes = ["round"]'), "got 'shapes'; rename it"),
    ],
)
def test_bad_files_are_one_sentence(
    tmp_path: Path, write: Callable[[Path], None], message: str
) -> None:
    write(tmp_path / "pools.toml")
    with pytest.raises(InputError, match=message):
        Pools.read(tmp_path / "pools.toml")


def test_the_commands_ask_and_use_the_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    file, out = tmp_path / "pools.toml", tmp_path / "prompts.csv"

    def behave(call: Call) -> Answer:
        return says(words(call.text, "unheard"))

    with ChatServer(behave) as server:
        options = ["--llm", "m", "--set", f"llm.base_url={server.url}", "--most", "4"]
        ran = runner.invoke(app, ["pools", "vase", "--out", str(file), "--json", *options])
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout)["words"]["shape"] == 4
    made = runner.invoke(
        app, f"class-prompts vase --pools {file} --count 5 --out {out}", catch_exceptions=False
    )
    assert made.exit_code == 0
    assert "unheard" in out.read_text()
    wrong = runner.invoke(app, f"class-prompts vase --kind person --pools {file} --out {out}")
    assert isinstance(wrong.exception, InputError)
