"""The world, human and chat judges."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from visdiff import registry
from visdiff.errors import InputError
from visdiff.judges import Claim, Verdict
from visdiff.judges.chat import ChatJudge, majority
from visdiff.judges.human import COLUMNS, HumanJudge, item, read_sheet, write_sheet
from visdiff.judges.world import WorldJudge, facts
from visdiff.llm import Failure, Reply, Request
from visdiff.miniature import world
from visdiff.results import Direction

GRASS, SNOW = "a dog on the grass", "a dog in the snow"


def says(text: str, a: str, b: str, direction: Direction = "A") -> float | None:
    (verdict,) = WorldJudge().judge([Claim(text, direction, a, b)])
    return verdict.score


# --- contract -----------------------------------------------------------------------------------


@pytest.mark.parametrize("score", [0.3, 2, -1, float("nan")])
def test_a_verdict_is_one_of_three_numbers(score: float) -> None:
    with pytest.raises(InputError, match=r"0, 0\.5 or 1"):
        Verdict(score)


def test_a_verdict_without_score_needs_a_reason() -> None:
    with pytest.raises(InputError, match="reason"):
        Verdict(None)
    assert Verdict(None, "refused").score is None


def test_an_unknown_direction_raises() -> None:
    with pytest.raises(InputError, match="direction"):
        Claim("x", "C", "a", "b")  # pyright: ignore[reportArgumentType]


def test_all_judges_are_registered() -> None:
    assert {"chat", "human", "world"} <= set(registry.names("judge"))
    assert registry.load("judge", "world") is WorldJudge
    # All judges accept the same settings and ignore unknown ones.
    assert registry.load("judge", "world")(llm=None, sheet=None, samples=3).identity


# --- world --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("on the grass", 1),
        ("a dog on the grass", 1),
        ("dogs standing on green grass", 1),
        ("a grassy lawn", 1),
        ("a cat on the grass", 0.5),
        ("a grass drawing in sepia", 0.5),
        ("a dog", 0),
        ("in the snow", 0),
        ("on the sand", 0),
        ("a dog on the grass in the snow", 0),
        ("grass and sand", 0),
        ("", 0),
        ("something quite different", 0),
    ],
)
def test_the_rule_on_a_planted_place(text: str, score: float) -> None:
    assert says(text, GRASS, SNOW) == score
    # The claim with sets exchanged has the same score.
    assert says(text, SNOW, GRASS, "B") == score


def test_the_score_depends_on_the_direction() -> None:
    assert says("on the grass", GRASS, SNOW, "A") == 1
    assert says("on the grass", GRASS, SNOW, "B") == 0


@pytest.mark.parametrize(
    ("text", "score"),
    [("an animal", 0.5), ("animals", 0.5), ("a trumpet", 0), ("a vehicle", 0), ("a dog", 1)],
)
def test_a_kind_is_broader(text: str, score: float) -> None:
    assert says(text, "a dog", "a trumpet") == score


def test_a_kind_that_both_sets_have_is_wrong() -> None:
    assert says("an animal", "a dog", "a cat") == 0
    assert says("a person", "a cook", "a pilot") == 0
    assert says("people", "a cook", "a castle") == 0.5


def test_one_of_two_subjects() -> None:
    a, b = "a dog next to a cat", "a dog next to an owl"
    assert says("a cat", a, b) == 1
    assert says("a dog and a cat", a, b) == 1
    assert says("a cat and a fish", a, b) == 0.5
    assert says("a dog", a, b) == 0
    assert says("an owl and a cat", a, b) == 0


def test_part_of_two_planted_attributes_is_broader() -> None:
    a, b = "a woman cook with dark skin", "a man cook with light skin"
    assert says("a woman with dark skin", a, b) == 1
    assert says("women", a, b) == 0.5
    assert says("dark skin", a, b) == 0.5
    assert says("a man with dark skin", a, b) == 0


def test_the_longest_name_wins() -> None:
    assert facts("medium-light skin") == {("tone", "medium-light")}
    assert facts("a light bulb") == {("subject", "light bulb")}
    assert facts("a health worker and a construction worker") == {
        ("subject", "health worker"),
        ("subject", "construction worker"),
    }
    assert facts("a pencil sketch of women") == {("style", "pencil sketch"), ("gender", "woman")}
    assert says("medium skin", "medium-dark skin", "light skin") == 0
    # The original implementation removed "and " from words such as "sand".
    assert facts("sand") == {("place", "sand")}


def test_unsupported_claims_have_no_score_but_a_reason() -> None:
    for claim in (
        Claim("no grass", "A", GRASS, SNOW),
        Claim("it isn't snow", "A", GRASS, SNOW),
        Claim("grass", "A", "a merry picture", "a sad picture"),
    ):
        (verdict,) = WorldJudge().judge([claim])
        assert verdict.score is None
        assert verdict.reason


def test_every_claim_about_equal_sets_is_wrong() -> None:
    assert says("a dog", "a dog", "A dog") == 0
    assert says("anything", "a merry picture", "a merry picture") == 0


def test_all_facts_of_full_captions_are_found() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        scene = world.sample_scene(rng)
        wanted = {("subject", scene.subject), ("place", scene.place), ("style", scene.style)}
        if scene.is_person:
            wanted |= {("gender", scene.gender), ("tone", scene.tone)}
        if scene.second:
            wanted.add(("subject", scene.second))
        assert facts(world.full_caption(scene)) == wanted


def test_a_changed_attribute_is_right_of_its_set_and_wrong_of_the_other() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        scene = world.sample_scene(rng)
        other = world.vary(scene, rng)
        a, b = world.full_caption(scene), world.full_caption(other)
        if facts(a) == facts(b):
            continue
        planted = facts(a) - facts(b)
        for text, _attribute in world.bare_phrases(scene):
            stated = facts(text)
            assert says(text, a, b) == (
                0 if not stated & planted else 1 if planted <= stated else 0.5
            )
            if stated & planted:
                assert says(text, a, b, "B") == 0


# --- human --------------------------------------------------------------------------------------

CLAIMS = [
    Claim("on the grass", "A", GRASS, SNOW),
    Claim("in the snow", "B", GRASS, SNOW),
    Claim("dogs; really,\n“dogs”", "A", GRASS, SNOW),
    Claim("=1+1", "A", "a", "b"),
    Claim("on the grass", "A", GRASS, SNOW),
]


def fill(path: Path, ratings: Mapping[str, str], delimiter: str = ",") -> None:
    """Fills in ratings by claim, and saves as spreadsheet software does."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter=delimiter)
        writer.writeheader()
        for row in rows:
            row["rating"] = ratings.get(row["claim"], "")
        writer.writerows(rows)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"], ids=["comma", "semicolon", "tab"])
def test_ratings_of_a_filled_in_sheet_are_read(tmp_path: Path, delimiter: str) -> None:
    sheet = tmp_path / "sheet.csv"
    assert write_sheet(CLAIMS, sheet, np.random.default_rng(0)) == 4
    fill(sheet, {"on the grass": "2", "in the snow": "1.0", "'=1+1": "0"}, delimiter)
    judge = HumanJudge(sheet)
    verdicts = judge.judge([*CLAIMS, Claim("on the grass", "B", GRASS, SNOW)])
    assert [v.score for v in verdicts] == [1.0, 0.5, None, 0.0, 1.0, None]
    assert verdicts[2].reason == "not rated"
    assert verdicts[5].reason == "not in the sheet"
    json.dumps(judge.identity)


@pytest.mark.parametrize("text", ["=1+1", "+2", "-2", "@x", "'=1", "''=1", "'quoted'", "plain"])
def test_no_claim_is_a_formula_and_all_are_read_back(tmp_path: Path, text: str) -> None:
    claim, sheet = Claim(text, "A", GRASS, SNOW), tmp_path / "sheet.csv"
    write_sheet([claim], sheet, np.random.default_rng(0))
    with sheet.open(newline="", encoding="utf-8-sig") as file:
        (row,) = csv.DictReader(file)
    assert row["claim"][0] not in "=+-@"
    assert list(read_sheet(sheet)) == [item(claim)]


def test_a_sheet_is_blind(tmp_path: Path) -> None:
    many = [Claim(f"claim {i}", "AB"[i % 2], GRASS, SNOW) for i in range(50)]  # pyright: ignore
    paths = [tmp_path / f"{i}.csv" for i in range(3)]
    for path, seed in zip(paths, (1, 1, 2), strict=True):
        write_sheet(many, path, np.random.default_rng(seed))
    with paths[0].open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    texts = [row["claim"] for row in rows]
    assert sorted(texts) == sorted(c.text for c in many)
    assert texts != [c.text for c in many]
    assert paths[0].read_bytes() == paths[1].read_bytes() != paths[2].read_bytes()
    # The set that the claim is about comes first.
    assert all(row["first_set"] == (GRASS, SNOW)[int(row["claim"][6:]) % 2] for row in rows)


def test_an_existing_sheet_is_not_overwritten(tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.csv"
    sheet.write_text("hours of work")
    with pytest.raises(InputError, match="may hold ratings"):
        write_sheet(CLAIMS, sheet, np.random.default_rng(0))
    assert sheet.read_text() == "hours of work"


def edit(sheet: Path, change: Callable[[str], str]) -> Path:
    sheet.write_text(change(sheet.read_text("utf-8-sig")), "utf-8")
    return sheet


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.replace("on the grass,,", "on the grass,3,"), r"0, 1 or 2.*'3'"),
        (lambda t: t.replace("on the grass,,", "on the gras,2,"), "as it was written"),
        (lambda t: t.replace("rating", "points"), "column 'rating'"),
        (lambda t: t + t.splitlines()[-1] + "\n", None),
    ],
    ids=["rating", "text", "column", "twice"],
)
def test_an_invalid_sheet_raises(
    tmp_path: Path, change: Callable[[str], str], message: str | None
) -> None:
    sheet = tmp_path / "sheet.csv"
    write_sheet(CLAIMS[:2], sheet, np.random.default_rng(0))
    edit(sheet, change)
    if message is None:
        assert len(read_sheet(sheet)) == 2
    else:
        with pytest.raises(InputError, match=message):
            HumanJudge(sheet)


def test_two_ratings_of_one_claim_raise(tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.csv"
    write_sheet(CLAIMS[:1], sheet, np.random.default_rng(0))
    line = sheet.read_text("utf-8-sig").splitlines()[1]
    two = f"{line.replace(',,', ',2,')}\n{line.replace(',,', ',0,')}\n"
    edit(sheet, lambda t: t.splitlines()[0] + "\n" + two)
    with pytest.raises(InputError, match="row 3 is the second"):
        read_sheet(sheet)
    unrated_and_rated = f"{line}\n{line.replace(',,', ',2,')}\n"
    edit(sheet, lambda t: t.splitlines()[0] + "\n" + unrated_and_rated)
    assert read_sheet(sheet)[item(CLAIMS[0])].score == 1


def test_a_missing_sheet_raises_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--write-sheet"):
        HumanJudge()
    with pytest.raises(InputError, match="No such file"):
        HumanJudge(tmp_path / "none.csv")


# --- chat ---------------------------------------------------------------------------------------


class Scripted:
    """A chat model that replies by a function and records the requests."""

    def __init__(self, reply: Callable[[Request], Reply | Failure]) -> None:
        self.reply = reply
        self.requests: list[Request] = []

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"backend": "scripted"}

    @property
    def has_vision(self) -> bool:
        return False

    def answer(self, requests: Sequence[Request], progress: bool = False) -> list[Reply | Failure]:
        self.requests += requests
        return [self.reply(request) for request in requests]


def reply(score: Any, reason: str = "because") -> Reply:
    data = {"score": score, "reason": reason}
    return Reply(json.dumps(data), data)


def question(request: Request) -> str:
    return "\n".join(str(part) for message in request.messages for part in message.parts)


def by_claim(scores: Mapping[str, Reply | Failure]) -> Callable[[Request], Reply | Failure]:
    return lambda r: next(v for k, v in scores.items() if json.dumps(k) in question(r))


def test_rubric_scores_are_halved() -> None:
    texts = {"x": 2, "y": 1, "z": 0}
    model = Scripted(by_claim({text: reply(score, text) for text, score in texts.items()}))
    claims = [Claim(text, "A", "a", "b") for text in texts]
    verdicts = ChatJudge(lambda: model).judge(claims)
    assert [v.score for v in verdicts] == [1, 0.5, 0]
    assert [v.reason for v in verdicts] == ["x", "y", "z"]
    assert all(r.schema and r.prompt_id == "judge-rubric@1" for r in model.requests)


@pytest.mark.parametrize(
    "failed",
    [
        Failure("refused", "refusal"),
        Failure("reply cut at 9 tokens", "length"),
        Reply("Score: 2"),
        reply("2"),
        reply(3),
        reply(True),
        reply(None),
        Reply("[2]", [2]),
    ],
    ids=["refusal", "length", "prose", "text", "range", "bool", "null", "list"],
)
def test_an_invalid_reply_has_no_score_and_does_not_affect_the_others(
    failed: Reply | Failure,
) -> None:
    model = Scripted(by_claim({"x": reply(2), "y": failed, "z": reply(0)}))
    claims = [Claim(text, "A", "a", "b") for text in "xyz"]
    verdicts = ChatJudge(lambda: model).judge(claims)
    assert [v.score for v in verdicts] == [1, None, 0]
    assert verdicts[1].reason


def test_both_directions_get_the_same_prompt() -> None:
    model = Scripted(lambda _: reply(2))
    ChatJudge(lambda: model).judge([Claim("x", "A", GRASS, SNOW), Claim("x", "B", SNOW, GRASS)])
    assert question(model.requests[0]) == question(model.requests[1])
    text = question(model.requests[0])
    assert text.index(json.dumps(GRASS)) < text.index(json.dumps(SNOW))


def test_placeholders_in_a_hypothesis_are_not_filled() -> None:
    model = Scripted(lambda _: reply(2))
    ChatJudge(lambda: model).judge([Claim('{own} "quoted"', "A", "{claim}", "b")])
    text = question(model.requests[0])
    assert json.dumps('{own} "quoted"') in text
    assert '"{claim}"' in text


def test_samples_are_decided_by_majority() -> None:
    votes = {0: 2, 1: 0, 2: 2, 3: 2, 4: 1}
    model = Scripted(lambda r: reply(votes[r.sample], f"sample {r.sample}"))
    (verdict,) = ChatJudge(lambda: model, samples=5).judge([Claim("x", "A", "a", "b")])
    assert verdict == Verdict(1.0, "sample 0")
    assert [r.sample for r in model.requests] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("votes", "score"),
    [
        ([2, 2, 0], 1.0),
        ([2, 1, 0], None),
        ([2, 0], None),
        ([2, 2, None], 1.0),
        ([2, None, None], None),
        ([None, None], None),
        ([1, 1, 1], 0.5),
    ],
    ids=str,
)
def test_a_majority_counts_failed_samples(votes: Sequence[int | None], score: float | None) -> None:
    verdict = majority([Failure("lost", "http") if v is None else reply(v) for v in votes])
    assert verdict.score == score
    assert verdict.reason


def test_a_judge_without_a_model_or_samples_raises() -> None:
    with pytest.raises(InputError, match="chat model"):
        ChatJudge()
    with pytest.raises(InputError, match="1 sample"):
        ChatJudge(lambda: Scripted(lambda _: reply(2)), samples=0)


def test_the_identity_holds_all_that_affects_a_verdict() -> None:
    model = Scripted(lambda _: reply(2))
    one, three = (ChatJudge(lambda: model, samples=n).identity for n in (1, 3))
    assert one != three
    assert one["model"] == {"backend": "scripted"}
    assert one["prompt"] == "judge-rubric@1"


def test_a_missing_reply_raises() -> None:
    class Losing(Scripted):
        def answer(
            self, requests: Sequence[Request], progress: bool = False
        ) -> list[Reply | Failure]:
            return super().answer(requests[1:])

    with pytest.raises(InputError, match="Expected 2 replies"):
        ChatJudge(lambda: Losing(lambda _: reply(2))).judge(
            [Claim("x", "A", "a", "b"), Claim("y", "A", "a", "b")]
        )


def test_no_claims_need_no_requests() -> None:
    model = Scripted(lambda _: reply(2))
    assert ChatJudge(lambda: model).judge([]) == []
    assert WorldJudge().judge([]) == []
    assert model.requests == []
