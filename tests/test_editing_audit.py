"""The audit: its prompts, its results for known edits, its page and its commands."""

import html
import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import editing
from editing.audits.audit import audit, audit_sets
from editing.audits.outcomes import Outcome
from editing.audits.prompt_groups import (
    EMPTY,
    MEANT,
    PARAPHRASES,
    TARGETS,
    PromptGroup,
    prompt_groups,
)
from editing.audits.prompt_groups import samples_of as samples
from editing.audits.report import AuditReport, drift_by_concept, file_name
from editing.cli.audit import app
from editing.demo import demo
from editing.generate import generate
from editing.generate.phrases import phrase
from editing.generate.prompts import Sample
from editing.metrics.proportions import proportion
from editing.pipelines.loading import load_pipeline
from editing.pipelines.sampling import Settings
from editing.requests import Debias, Erase, Moderate, Preserve, Replace, Request
from editing.requests.toml import read_requests, requests_toml
from visdiff.cache import Cache
from visdiff.errors import InputError
from visdiff.imageset import ImageSet

QUICK = Settings(steps=6, guidance=5.0, scheduler="DPMSolverMultistep")
SKETCH = "a pencil sketch of a rose"
REQUESTS: list[Request] = [
    Erase("church"),
    Replace("dog", "cat", scale=0.5),
    Debias("firefighter", {"man": 0.5, "woman": 0.5}),
    Moderate("bomb"),
    Preserve(["a castle", 'a "quoted" name\\', "é\u2028🙂"], scale=0.1),
]


@pytest.fixture(scope="module")
def pipe() -> Any:
    return load_pipeline("miniature")


@pytest.fixture(scope="module")
def cold(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What `visdiff demo` writes and prints: an erasure that preserves little, and its audit."""
    folder = tmp_path_factory.mktemp("audit")
    done = subprocess.run(
        [sys.executable, "-m", "visdiff.cli", "demo", "--json", "--out", str(folder / "report")],
        env={**os.environ, "VISDIFF_CACHE_DIR": str(folder / "cache")},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return folder / "report", done.stdout


@pytest.fixture(scope="module")
def erased(cold: tuple[Path, str]) -> tuple[AuditReport, Path]:
    """The same audit as an object, from the images and the cache of the command."""
    folder, _ = cold
    with Cache(folder.parent / "cache") as cache:
        return demo(folder, cache, progress=False), folder


def test_groups_cover_all_kinds_of_prompts_without_duplicates(pipe: Any) -> None:
    """Each prompt is in one group; concepts of the requests and targets are in no other group."""
    groups = {g.name: g for g in prompt_groups(pipe, REQUESTS, near=["temple"])}
    prompts = [p for g in groups.values() for p in g.prompts]
    assert len(set(prompts)) == len(prompts)
    assert groups[TARGETS].prompts == ("a church", "a dog", "a firefighter", "a bomb")
    assert set(groups[PARAPHRASES].concepts) == set(groups[TARGETS].concepts)
    assert "temple" in groups["neighbours"].concepts
    assert groups[EMPTY].prompts == ("",)
    assert {"things", "people", "places", "styles"} <= set(groups)
    others = {c for name, g in groups.items() if name not in MEANT for c in g.concepts}
    others -= set(groups["preserved"].concepts)
    assert not others & {"church", "dog", "cat", "firefighter", "bomb", "man", "woman", "castle"}


@pytest.mark.parametrize(
    ("requests", "prompt", "owner"),
    [
        ([Erase("church"), Erase("church in the snow")], "a church in the snow", TARGETS),
        ([Erase("church"), Preserve(["church at night"])], "a church at night", "preserved"),
        ([Erase("church"), Preserve([SKETCH])], SKETCH, "preserved"),
    ],
)
def test_a_prompt_is_in_one_group_if_requests_overlap(
    pipe: Any, requests: list[Request], prompt: str, owner: str
) -> None:
    """Pairs are found by prompt and seed, so that an audit with a prompt twice would fail."""
    groups = prompt_groups(pipe, requests)
    assert [g.name for g in groups if prompt in g.prompts] == [owner]
    assert samples(groups, images=2)


def test_a_prompt_in_two_groups_is_refused_before_images_are_generated() -> None:
    groups = [PromptGroup("a", ("x", "y"), ("", "")), PromptGroup("b", ("y",), ("",))]
    with pytest.raises(InputError, match="each prompt in one group, got 'y' in a and in b"):
        samples(groups, images=2)


def test_changed_concepts_are_not_in_unrelated_groups(pipe: Any) -> None:
    prompts = [
        p for g in prompt_groups(pipe, [Erase("a rose"), Erase("guitar")]) if g.name not in MEANT
        for p in g.prompts
    ]  # fmt: skip
    assert prompts
    assert not [p for p in prompts if "rose" in p or "guitar" in p]


def test_a_group_has_enough_images_and_every_prompt_two_seeds() -> None:
    groups = [PromptGroup("many", tuple("abc"), ("",) * 3), PromptGroup("one", ("",), ("",))]
    drawn = samples(groups, images=4)
    assert [s.prompt for s in drawn] == ["a", "a", "b", "b", "c", "c", *[""] * 4]
    assert {s.columns["group"] for s in drawn} == {"many", "one"}


def test_prompts_do_not_share_seeds_and_keep_them_in_every_audit() -> None:
    """Pairs are independent, and original images are reused for the next edit."""
    many = PromptGroup("many", tuple(f"a {word}" for word in "bcdfghjklm"), ("",) * 10)
    drawn = samples([many], images=40)
    assert len({s.seed for s in drawn}) == len(drawn) == 40
    again = samples([PromptGroup("other", many.prompts[3:5], ("",) * 2)], images=8)
    assert {(s.prompt, s.seed) for s in again} == {
        (s.prompt, s.seed) for s in drawn if s.prompt in many.prompts[3:5]
    }
    shifted = samples([many], images=40, seed=1000)
    assert [s.seed - 1000 for s in shifted] == [s.seed for s in drawn]


@pytest.mark.parametrize(
    ("concept", "expected"),
    [
        ("church", "a church"), ("owl", "an owl"), ("a castle", "a castle"),
        ("van Gogh", "van Gogh"), ("in the snow", "in the snow"), ("scissors", "scissors"),
        ("cactus", "a cactus"),
        ("pop art style", "pop art style"), ("", ""),
    ],
)  # fmt: skip
def test_a_phrase_has_an_article_if_it_needs_one(concept: str, expected: str) -> None:
    assert phrase(concept) == expected


def test_requests_survive_a_round_trip_through_toml(tmp_path: Path) -> None:
    file = tmp_path / "next.toml"
    file.write_text(requests_toml(REQUESTS, "uce-2025"), encoding="utf-8")
    read = read_requests(file)
    assert list(read.requests) == REQUESTS
    assert read.method == "uce-2025"
    assert (
        tomllib.loads(requests_toml([Erase("a\x7fb\x01")]))["erase"][0]["concept"] == "a\x7fb\x01"
    )


@pytest.mark.parametrize(
    ("request_", "sought", "before", "after", "met"),
    [
        (Erase("church"), "church", 20, 2, "yes"),
        (Erase("church"), "church", 20, 8, "in part"),
        (Erase("church"), "church", 20, 19, "no"),
        (Erase("church"), "church", 0, 0, "unknown"),
        (Erase("church"), "church", 3, 0, "unknown"),
        (Erase("church"), "church", 9, 0, "yes"),
        (Replace("dog", "cat"), "cat", 0, 17, "yes"),
        (Replace("dog", "cat"), "cat", 0, 9, "in part"),
        (Replace("dog", "cat"), "cat", 9, 9, "no"),
        (Debias("judge", {"man": 0.5, "woman": 0.5}), "man", 19, 11, "yes"),
        (Debias("judge", {"man": 0.5, "woman": 0.5}), "man", 19, 15, "in part"),
        (Debias("judge", {"man": 0.5, "woman": 0.5}), "woman", 1, 0, "no"),
    ],
)
def test_when_a_request_counts_as_met(
    request_: Any, sought: str, before: int, after: int, met: str
) -> None:
    shares = [proportion([True] * k + [False] * (20 - k)) for k in (before, after)]
    assert Outcome.of(request_, sought, *shares).met == met


def test_drift_of_a_concept_is_the_mean_of_its_prompts() -> None:
    from editing.metrics.drift import drift

    rng = np.random.default_rng(0)
    original = rng.normal(size=(6, 3))
    prompts = ["a", "a", "b", "b", "c", "c"]
    moved = drift(original, original + np.repeat([[0.1], [0.3], [1.0]], 2, axis=0), prompts, rng)
    found = drift_by_concept(moved, prompts, ["x", "x", "x", "x", "y", "y"])
    assert found["x"] == pytest.approx((moved.by_prompt["a"] + moved.by_prompt["b"]) / 2)
    assert list(found) == sorted(found, key=lambda c: -found[c])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_demo_erases_a_church_and_audits_the_edit(cold: tuple[Path, str]) -> None:
    out, printed = cold
    report = json.loads(printed)
    (church,) = report["outcomes"]
    assert church["before"]["value"] > 0.8
    assert church["met"] == "yes"
    assert (out / "audit.html").stat().st_size > 10_000
    assert (out / "edit.safetensors").is_file()
    # The confirmed differences name the church as removed from the targets.
    targets = next(g for g in report["groups"] if g["name"] == "targets")
    assert any("church" in d["text"] and d["direction"] == "A" for d in targets["confirmed"])


def _results(text: str) -> str:
    """Returns the JSON of a report without when and how each comparison was made."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: strip(v) for k, v in value.items() if k != "provenance"}
        return [strip(v) for v in value] if isinstance(value, list) else value

    return json.dumps(strip(json.loads(text)), sort_keys=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_second_audit_generates_nothing_and_reports_the_same(
    cold: tuple[Path, str], erased: tuple[AuditReport, Path]
) -> None:
    folder, printed = cold
    assert _results(erased[0].to_json()) == _results(printed)
    rows = (folder / "images" / "manifest.jsonl").read_text().splitlines()
    edit = (folder / "edit.safetensors").stat().st_mtime
    written = [(folder / "images" / json.loads(row)["path"]).stat().st_mtime for row in rows]
    assert max(written) < edit


@pytest.mark.slow
def test_the_audit_reports_the_erasure_and_small_drift_elsewhere(
    erased: tuple[AuditReport, Path],
) -> None:
    report, _ = erased
    groups = {g.name: g for g in report.groups}
    outcome = next(o for o in report.outcomes if o.sought == "church")
    assert outcome.before.value > 0.5 > 0.2 > outcome.after.value
    confirmed = groups[TARGETS].confirmed
    assert any("church" in d.text and d.direction == "A" for d in confirmed)
    moved = {name: g.drift.value for name, g in groups.items() if g.drift is not None}
    assert moved["preserved"] < 0.5 * moved[TARGETS]
    assert moved[EMPTY] < 0.5 * moved[TARGETS]
    assert all(d.q_value <= 0.05 for g in report.groups for d in g.confirmed)


@pytest.mark.slow
def test_an_audit_of_identical_images_finds_nothing(erased: tuple[AuditReport, Path]) -> None:
    """Compared with itself, the original has zero drift, and no sentence is confirmed."""
    _, folder = erased
    file = folder / "images" / "three.jsonl"
    three = (TARGETS, "preserved", EMPTY)
    rows = (folder / "images" / "manifest.jsonl").read_text().splitlines()
    file.write_text("\n".join(r for r in rows if json.loads(r)["group"] in three))
    original = ImageSet.open(file, where={"group_name": "original"})
    with Cache(folder.parent / "cache") as cache:
        report = audit_sets(original, original, preset="miniature", cache=cache, progress=False)
    assert [g.name for g in report.groups] == [*three]
    assert not report.warnings
    assert all(g.drift is not None and g.drift.value == 0 for g in report.groups)
    assert not report.side_effects
    assert not report.to_preserve
    assert report.verdict == "Nothing else was found to have changed"


@pytest.mark.slow
def test_a_change_under_one_prompt_of_four_is_found(pipe: Any, tmp_path: Path) -> None:
    """Over all images of the group, the change is diluted to a quarter."""
    prompts = ("a penguin", "a robot", "an apple", "a rocket")
    requested = [Sample(p, seed) for p in (*prompts, "a castle") for seed in range(24)]
    drawn = generate(pipe, requested, tmp_path, settings=QUICK, batch_size=24).manifest
    rows = [json.loads(line) for line in drawn.read_text().splitlines()]
    castles = {r["seed"]: r["path"] for r in rows if r["prompt"] == "a castle"}
    original = [r for r in rows if r["prompt"] in prompts]
    edited = [
        r | {"path": castles[r["seed"]]} if r["prompt"] == "a penguin" else r for r in original
    ]
    sets = []
    for name, part in (("a", original), ("b", edited)):
        file = tmp_path / f"{name}.jsonl"
        file.write_text("\n".join(map(json.dumps, part)))
        sets.append(ImageSet.open(file))
    with Cache(tmp_path / "cache") as cache:
        report = audit_sets(*sets, preset="miniature", cache=cache, progress=False)
    (group,) = report.groups
    assert [w for w in report.warnings if "Prompts share seeds" in w]
    removed = [d.text for d in group.confirmed if d.direction == "A"]
    added = [d.text for d in group.confirmed if d.direction == "B"]
    assert any("penguin" in text for text in removed)
    assert any("castle" in text for text in added)
    assert not any(w in t for w in ("robot", "apple", "rocket") for t in removed + added)


@pytest.mark.slow
def test_the_page_shows_pairs_and_loads_nothing(erased: tuple[AuditReport, Path]) -> None:
    report, folder = erased
    page = (folder / "audit.html").read_text()
    assert html.escape(report.verdict) in page
    positions = [page.index(f'id="{part}"') for part in ("asked", "how-much", "else", "next")]
    assert positions == sorted(positions)
    assert len(re.findall(r'src="data:image/png;base64,', page)) >= 2 * len(report.groups)
    assert not re.search(r"""src\s*=\s*(?!["']?data:)""", page)
    for target in re.findall(r'href="([^#"][^"]*)"', page):
        assert (folder / target).exists()  # a file of the audit, not of the network
    saved = json.loads((folder / "audit.json").read_text())
    assert saved["verdict"] == report.verdict
    assert [g["name"] for g in saved["groups"]] == [g.name for g in report.groups]
    assert (folder / "groups" / "empty-prompt" / "report.html").is_file()


@pytest.mark.slow
def test_text_from_users_is_escaped(erased: tuple[AuditReport, Path]) -> None:
    report, _ = erased
    evil = "<script>alert(1)</script>"
    page = replace(report, about={"method": evil, "base": evil}, warnings=(evil,)).to_html()
    assert "<script" not in page
    assert html.escape(evil) in page


@pytest.mark.slow
def test_commands_audit_folders_and_compare_audits(
    erased: tuple[AuditReport, Path], tmp_path: Path
) -> None:
    _, folder = erased
    rows = (folder / "images" / "manifest.jsonl").read_text().splitlines()
    manifests = []
    for name in ("original", "edited"):
        file = folder / "images" / f"{name}.jsonl"
        file.write_text("\n".join(r for r in rows if json.loads(r)["group_name"] == name))
        manifests.append(file)
    out = tmp_path / "foreign"
    result = run("--images-a", manifests[0], "--images-b", manifests[1], "--preset", "miniature",
                 "--out", out)  # fmt: skip
    assert "targets: drift" in result.stdout
    table = json.loads(run("compare", folder, out, "--json").stdout)
    assert [row["audit"] for row in table] == ["report", "foreign"]
    # The same images give the same measurements.
    assert table[0]["drift, targets"] == table[1]["drift, targets"]
    assert table[0]["side effects"] == table[1]["side effects"]


def test_a_dry_run_on_images_measures_nothing(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    file = tmp_path / "images.csv"
    file.write_text("path,prompt,seed\n1.png,a church,0\n")
    result = run("--images-a", file, "--images-b", file, "--out", tmp_path / "out", "--dry-run")
    assert "1 original and 1 edited images" in result.stdout
    assert not (tmp_path / "out").exists()


def test_requests_of_a_file_count_for_an_imported_edit(pipe: Any, tmp_path: Path) -> None:
    """An edit that `visdiff edit import` wrote has no requests, and its audit would have none."""
    edit = editing.fit(pipe, [Erase("church")], nearest=0)
    file = replace(edit, requests=(), ledger=None, method="import").save(tmp_path / "e.safetensors")
    (tmp_path / "requests.toml").write_text(requests_toml([Erase("church")], "uce"))
    result = run("--base", "miniature", "--edit", file, "--requests", tmp_path / "requests.toml",
                 "--out", tmp_path / "out", "--dry-run", "--device", "cpu")  # fmt: skip
    assert "targets 1" in result.stdout


@pytest.mark.parametrize("name", ["../../outside", "a/b", "a b", "a-b", "", "x" * 300])
def test_the_folder_of_a_group_is_in_that_of_the_audit(name: str) -> None:
    others = {file_name(n) for n in ("a b", "a-b", "a/b", "a  b", "../../outside") if n != name}
    own = file_name(name)
    assert own not in others
    assert own == Path(own).name
    assert 0 < len(own.encode()) <= 80


def test_what_cannot_be_measured_is_named_and_the_rest_is_audited(tmp_path: Path) -> None:
    """A damaged file, and a prompt of which a safety checker has made all originals black."""
    rng = np.random.default_rng(0)
    sets = []
    for side in "ab":
        rows = []
        for group, prompt in (("targets", "a church"), ("things", "a dog")):
            for seed in range(3):
                file = tmp_path / f"{side}-{group}-{seed}.png"
                pixels = rng.integers(256, size=(16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels * (side == "b" or group == "targets")).save(file)
                rows.append({"path": file.name, "prompt": prompt, "seed": len(rows),
                             "group": group, "concept": prompt[2:]})  # fmt: skip
        (tmp_path / f"{side}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        sets.append(ImageSet.open(tmp_path / f"{side}.jsonl"))
    damaged = tmp_path / "b-targets-1.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    with Cache(tmp_path / "cache") as cache:
        report = audit_sets(*sets, requests=[Erase("church")], preset="miniature", cache=cache,
                            progress=False)  # fmt: skip
    targets, things = report.groups
    assert (targets.n, things.n) == (2, 3)
    assert targets.drift is not None
    assert things.drift is None
    assert [o.before.n for o in report.outcomes] == [2]
    (failure,) = report.failures
    assert "1 pairs with unreadable images" in failure
    assert damaged.name in failure
    assert failure in report.warnings
    assert not report.is_complete
    given = ["--images-a", tmp_path / "a.jsonl", "--images-b", tmp_path / "b.jsonl"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "next.toml").write_text("of an earlier audit")
    arguments = [*given, "--preset", "miniature", "--out", tmp_path / "out", "--metrics", "fid"]
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 3
    assert "next.toml" not in {path.name for path in (tmp_path / "out").iterdir()}
    assert any("The drift was not measured in things" in w for w in report.warnings)


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_invalid_options_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    missing = tmp_path / "none"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "audit.json").write_text("[1]")
    for arguments, words in [
        (["--base", "miniature", "--edit", "e"], "--out DIR"),
        (["--base", "miniature", "--out", tmp_path], "--base with --edit or with --edited"),
        (["--images-a", tmp_path, "--out", tmp_path], "--images-a and --images-b"),
        (
            [
                "--images-a",
                tmp_path,
                "--images-b",
                tmp_path,
                "--out",
                tmp_path,
                "--prompts",
                tmp_path / "p.csv",
                "--neighbour",
                "temple",
            ],
            "no --prompts and no --neighbour with --images-a",
        ),
        (["--base", "miniature", "--edit", missing, "--out", tmp_path], "does not exist"),
        (["--images-a", tmp_path, "--images-b", tmp_path, "--out", tmp_path], "prompt and seed"),
        (["compare", missing], "that visdiff audit wrote"),
        (["compare", tmp_path / "other"], "got other JSON"),
    ]:
        with pytest.raises(InputError, match=re.escape(words)):
            CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def test_an_edit_for_another_base_is_refused_before_images_are_generated(
    pipe: Any, tmp_path: Path
) -> None:
    edit = editing.fit(pipe, [Erase("church")], nearest=0)
    other = replace(edit, base_parts={**edit.base_parts, "unet": "0" * 64})
    with pytest.raises(InputError, match="the base that this edit was fitted to"):
        audit(pipe, other, tmp_path, preset="miniature")
    assert not list(tmp_path.iterdir())
