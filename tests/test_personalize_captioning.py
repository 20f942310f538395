"""Training captions by models: styles, cases, second questions, manifests that are resumed."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chatserver import Answer, Call, ChatServer, says
from PIL import Image
from typer.testing import CliRunner

from editing.cli.personalize import app
from editing.personalize.captioning import (
    Caption,
    Style,
    caption,
    instruction_of,
    read_captions,
    write_captions,
)
from editing.personalize.captions import Case
from editing.personalize.describers import ChatDescriber, Described
from editing.personalize.subject import Subject
from visdiff.errors import InputError
from visdiff.imageset import ImageSet
from visdiff.llm import Failure, Picture
from visdiff.llm.scripted import ScriptedChat

runner = CliRunner()

SID = "A dog on a green couch next to a wooden table."
DESCRIBED = "a brown dog on a green couch"


def subject_of(folder: Path, names: str = "ab", noun: str = "dog") -> Subject:
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        Image.new("RGB", (16, 12), (40 * i, 20, 30)).save(folder / f"{name}.png")
    return Subject.without_captions(folder, noun=noun)


class Fixed:
    """A captioner with given texts, which follows no instruction."""

    name = "fixed"
    follows = False

    def __init__(self, *texts: str | None) -> None:
        self.texts = list(texts)
        self.images = 0

    def describe(self, images: ImageSet, turns: Sequence[Sequence[str]]) -> Described:
        self.images += len(images)
        texts = [self.texts.pop(0) for _ in range(len(images))]
        return Described(texts, {i: "empty caption" for i, t in enumerate(texts) if t is None})


def texts(found: Any) -> list[str]:
    return [c.text for c in found.captions.values()]


def test_sid_inserts_the_identifier_and_sorts_the_caption(tmp_path: Path) -> None:
    chat = ScriptedChat([SID, '"Caption: a dog sitting"'])
    found = caption(subject_of(tmp_path), ChatDescriber(chat))
    assert texts(found) == [
        "A olis dog on a green couch next to a wooden table",
        "a olis dog sitting",
    ]
    assert [c.case for c in found.captions.values()] == [Case.SID, Case.NOUN]
    assert found.captions["a.png"].others == ("green couch", "wooden table")
    assert found.captions["a.png"].reply == SID
    assert not found.flagged
    question, picture = chat.requests[0].messages[0].parts
    assert question == instruction_of("sid").format(noun="dog")
    assert isinstance(picture, Picture)


def test_a_chat_model_is_asked_again_once_with_the_reason(tmp_path: Path) -> None:
    chat = ScriptedChat([DESCRIBED, SID, "a dog on a green couch"])
    found = caption(subject_of(tmp_path), ChatDescriber(chat))
    assert texts(found)[0] == "a olis dog on a green couch"
    assert not found.flagged
    again = chat.requests[2].messages
    assert [m.role for m in again] == ["user", "assistant", "user"]
    assert again[1].parts == (DESCRIBED,)
    assert "the dog itself (brown)" in str(again[2].parts[0])


def test_a_caption_that_stays_in_case_4_is_kept_and_flagged(tmp_path: Path) -> None:
    chat = ScriptedChat([DESCRIBED, "a big brown dog on a green couch"])
    found = caption(subject_of(tmp_path, "a"), ChatDescriber(chat))
    assert texts(found) == ["a brown olis dog on a green couch"]
    assert found.captions["a.png"].case is Case.SUBJECT_DETAILS
    assert "its details (brown)" in found.flagged["a.png"]
    assert not found.failures


def test_a_captioner_is_not_asked_again(tmp_path: Path) -> None:
    found = caption(subject_of(tmp_path, "a"), Fixed(DESCRIBED))
    assert texts(found) == ["a brown olis dog on a green couch"]
    assert found.flagged


def test_a_caption_without_the_noun_is_kept_behind_the_phrase(tmp_path: Path) -> None:
    found = caption(subject_of(tmp_path, "a"), Fixed("a corgi on a couch"), "plain")
    assert texts(found) == ["a olis dog, a corgi on a couch"]
    assert "did not name the class noun 'dog'" in found.flagged["a.png"]


def test_plain_captions_may_describe_the_subject(tmp_path: Path) -> None:
    found = caption(subject_of(tmp_path, "a"), Fixed(DESCRIBED), "plain")
    assert found.captions["a.png"].case is Case.SUBJECT_DETAILS
    assert not found.flagged


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("sitting on a couch", "a olis dog sitting on a couch"),
        ("a dog sitting on a couch.", "a olis dog sitting on a couch"),
        ("a photo of a dog, at night", "a olis dog, at night"),
        ("Dog on the grass", "a olis dog on the grass"),
    ],
)
def test_blip_captions_have_one_form(tmp_path: Path, reply: str, expected: str) -> None:
    found = caption(subject_of(tmp_path, "a"), Fixed(reply), "blip")
    assert texts(found) == [expected]


@pytest.mark.parametrize("case", list(Case))
def test_each_case_is_written_for_the_ablation(tmp_path: Path, case: Case) -> None:
    reply = DESCRIBED if case is Case.SUBJECT_DETAILS else SID
    chat = ScriptedChat(lambda _: reply)
    found = caption(subject_of(tmp_path), ChatDescriber(chat), case=case)
    assert {c.case for c in found.captions.values()} == {case}
    assert not found.flagged
    assert len(chat.requests) == (0 if case is Case.NOUN else 2)


def test_another_case_than_the_asked_one_is_flagged(tmp_path: Path) -> None:
    found = caption(subject_of(tmp_path, "a"), Fixed("a dog on a couch"), case=Case.SID)
    assert found.flagged == {"a.png": "Expected a caption of case 3, got case 2; edit the caption."}


def test_failures_are_named_and_retried(tmp_path: Path) -> None:
    subject = subject_of(tmp_path)
    chat = ScriptedChat([Failure("refused", "refusal"), SID])
    found = caption(subject, ChatDescriber(chat))
    assert found.failures == {"a.png": "refused"}
    assert texts(found)[0] == ""
    second = caption(subject, Fixed("a dog by a red door"), kept=found.captions)
    assert texts(second) == ["a olis dog by a red door", texts(found)[1]]
    assert (second.kept, second.failures) == (1, {})


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_manifest_is_read_back_by_subject(tmp_path: Path, suffix: str) -> None:
    subject_of(tmp_path / "s")
    Image.new("L", (16, 12), 255).save(tmp_path / "s" / "a_mask.png")
    subject = Subject.without_captions(tmp_path / "s", "<olis>", "dog")
    found = caption(subject, Fixed("a dog at sea", None))
    out = tmp_path / f"captions{suffix}"
    write_captions(out, subject, found.captions)
    opened = Subject.open(out, "<olis>", "dog")
    assert opened.captions == ("a <olis> dog at sea", "a <olis> dog")
    assert opened.masks[0] is not None
    assert opened.masks[1] is None
    assert opened.notes == ("1 images have no caption; 'a <olis> dog' is used for them.",)
    assert [c.text for c in read_captions(out).values()] == texts(found)


def test_an_edited_caption_is_kept_and_checked_again(tmp_path: Path) -> None:
    subject = subject_of(tmp_path)
    found = caption(subject, Fixed(DESCRIBED, "a corgi on a couch"))
    assert len(found.flagged) == 2
    again = caption(subject, Fixed(), kept=found.captions)
    assert again.flagged == found.flagged
    edited = {n: replace(c, text="a olis dog on a red rug") for n, c in found.captions.items()}
    fixed = Fixed()
    mended = caption(subject, fixed, kept=edited)
    assert texts(mended) == ["a olis dog on a red rug"] * 2
    assert {c.case for c in mended.captions.values()} == {Case.SID}
    assert not mended.flagged
    assert fixed.images == 0


def test_captions_of_another_style_are_kept_and_noted(tmp_path: Path) -> None:
    subject = subject_of(tmp_path, "a")
    found = caption(subject, Fixed(DESCRIBED), "plain")
    again = caption(subject, Fixed(), kept=found.captions)
    assert texts(again) == texts(found)
    assert "1 captions of another style" in again.notes[0]
    assert not again.flagged


def test_captions_so_far_are_handed_over(tmp_path: Path) -> None:
    subject = subject_of(tmp_path, "abcdefghijklmnopqr")
    seen: list[int] = []
    caption(subject, Fixed(*["a dog"] * 18), on_captions=lambda found: seen.append(len(found)))
    assert seen == [16, 18]


def test_an_interrupted_run_keeps_what_it_wrote(tmp_path: Path) -> None:
    subject = subject_of(tmp_path / "s", "abcdefghijklmnopqr")
    out = tmp_path / "captions.jsonl"

    def save(found: Mapping[str, Caption]) -> None:
        write_captions(out, subject, found)

    with pytest.raises(IndexError):
        caption(subject, Fixed(*["a dog on a hill"] * 17), on_captions=save)
    assert len(Subject.open(out, noun="dog")) == 18
    rest = caption(subject, Fixed("a dog", "a dog"), kept=read_captions(out))
    assert (rest.kept, len(rest.captions)) == (16, 18)


def bad_case(subject: Subject) -> None:
    caption(subject, Fixed(), "blip", Case.SID)


def foreign_caption(subject: Subject) -> None:
    kept = Caption("a olis dog", "", None, (), (), "sid", "fixed")
    caption(subject, Fixed(), kept={"z.png": kept})


def blind(subject: Subject) -> None:
    caption(subject, ChatDescriber(ScriptedChat([], vision=False)))


@pytest.mark.parametrize(
    ("fails", "message"),
    [
        (bad_case, "Expected the style 'sid' with a case"),
        (foreign_caption, r"got one of 'z\.png'"),
        (blind, "Expected a chat model with vision"),
    ],
)
def test_mistakes_are_one_sentence(
    tmp_path: Path, fails: Callable[[Subject], None], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        fails(subject_of(tmp_path, "a"))


@pytest.mark.parametrize("style", ["sid", "plain", "blip"])
def test_the_command_with_the_miniature_captioner(tmp_path: Path, style: Style) -> None:
    subject_of(tmp_path / "s")
    out = tmp_path / "captions.jsonl"
    options = [str(tmp_path / "s"), "--noun", "dog", "--style", style, "--out", str(out), "--json"]
    ran = runner.invoke(app, ["caption", *options, "--preset", "miniature"])
    assert ran.exit_code in (0, 3), ran.output
    result = json.loads(ran.stdout)
    assert result["captioned"] == 2
    assert all("olis dog" in c for c in Subject.open(out, noun="dog").captions)
    first = out.read_bytes()
    again = runner.invoke(app, ["caption", *options, "--preset", "miniature"])
    assert json.loads(again.stdout)["kept"] == 2
    assert out.read_bytes() == first


def test_the_command_with_an_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    subject_of(tmp_path / "s")

    def behave(call: Call) -> Answer:
        return says("a dog on a red rug" if "describes the dog itself" in call.text else DESCRIBED)

    out = tmp_path / "captions.csv"
    with ChatServer(behave) as server:
        options = ["--captioner", "chat", "--llm", "m", "--set", f"llm.base_url={server.url}"]
        ran = runner.invoke(
            app, ["caption", str(tmp_path / "s"), "--noun", "dog", "--out", str(out), *options]
        )
        assert len(server.calls) == 4
    assert ran.exit_code == 0, ran.output
    assert "2 of 2 images captioned (2 of case 3)" in ran.stdout
    assert [c.captioner for c in read_captions(out).values()] == ["m", "m"]
    checked = runner.invoke(app, ["check", str(out), "--noun", "dog"])
    assert checked.exit_code == 0
    assert checked.stdout.count("case 3") == 2


def test_the_command_counts_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    subject_of(tmp_path / "s")
    (tmp_path / "s" / "b.png").write_bytes(b"no image")
    out = tmp_path / "captions.jsonl"
    with ChatServer(lambda _: says(SID)) as server:
        options = ["--captioner", "chat", "--llm", "m", "--set", f"llm.base_url={server.url}"]
        ran = runner.invoke(
            app, ["caption", str(tmp_path / "s"), "--noun", "dog", "--out", str(out), *options]
        )
    assert ran.exit_code == 3
    assert "1 without a caption (first: b.png:" in ran.stderr
    assert [bool(c.text) for c in read_captions(out).values()] == [True, False]


def test_a_captioner_that_cannot_continue_is_refused(tmp_path: Path) -> None:
    subject_of(tmp_path / "s")
    ran = runner.invoke(
        app,
        f"caption {tmp_path / 's'} --noun dog --style blip --captioner manifest "
        f"--out {tmp_path / 'c.csv'}",
    )
    assert isinstance(ran.exception, InputError)
    assert "cannot continue a caption" in str(ran.exception)


def test_the_plan_names_the_calls(tmp_path: Path) -> None:
    subject_of(tmp_path / "s")
    ran = runner.invoke(
        app,
        f"caption {tmp_path / 's'} --noun dog --captioner chat --out {tmp_path / 'c.csv'} "
        "--dry-run --json",
    )
    assert json.loads(ran.stdout) == {"images": 2, "kept": 0, "most_calls": 4}


def test_case_1_needs_no_model(tmp_path: Path) -> None:
    subject_of(tmp_path / "s")
    out = tmp_path / "c.csv"
    ran = runner.invoke(app, f"caption {tmp_path / 's'} --noun dog --case 1 --out {out}")
    assert ran.exit_code == 0, ran.output
    assert Subject.open(out, noun="dog").captions == ("a olis dog",) * 2


def test_the_help_shows_the_instruction() -> None:
    ran = runner.invoke(app, ["caption", "--help"])
    assert "Write one caption of this image for training" in ran.stdout


def test_check_marks_captions_that_name_the_noun_twice(tmp_path: Path) -> None:
    subject_of(tmp_path, "a")
    (tmp_path / "a.txt").write_text("a dog next to a dog")
    ran = runner.invoke(app, ["check", str(tmp_path), "--noun", "dog"])
    assert ran.exit_code == 3
    assert "case ?  a.png" in ran.stdout
    assert "1 captions do not name 'dog' once" in ran.stderr
