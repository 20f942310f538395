"""Tests of configurations: presets, TOML files, single settings and error messages."""

import inspect
import shlex
import tomllib
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from visdiff import registry
from visdiff.captioners import Captioner
from visdiff.cli.configuration import configuration
from visdiff.cli.options import command_line
from visdiff.config import Config, LlmConfig, preset_names
from visdiff.config.backends import MODELS, SeveralConfig
from visdiff.config.captioners import Blip2Config, BlipConfig, ManifestCaptionerConfig
from visdiff.config.proposers import (
    CaptionsLlmConfig,
    ConceptsConfig,
    ManualConfig,
    NgramsConfig,
)
from visdiff.config.rankers import CaptionsLexicalConfig, ClipConfig
from visdiff.errors import InputError
from visdiff.rankers import Ranker

BASE = "Salesforce/blip-image-captioning-base"

# Text that a file can contain: no lone surrogates.
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_contains_its_name(name: str) -> None:
    config = Config.of(name)
    assert config.preset == name
    assert isinstance(config.captioner, BlipConfig)
    assert config.captioner.model is not None


def test_the_presets_of_this_release() -> None:
    assert {"miniature", "laptop"} <= set(preset_names())
    ranker = Config.of("miniature").ranker
    assert isinstance(ranker, ClipConfig)
    assert ranker.model == "miniature"
    # A preset must pin the revision of its weights.
    captioner = Config.of("laptop").captioner
    assert isinstance(captioner, BlipConfig)
    assert len(captioner.revision or "") == 40


def test_the_default_preset_is_laptop() -> None:
    assert Config.parse("seed = 3") == Config.of("laptop").changed(seed=3)


@pytest.mark.parametrize("name", preset_names())
def test_toml_round_trip_of_presets(name: str) -> None:
    config = Config.of(name)
    assert Config.parse(config.to_toml()) == config


@settings(max_examples=12)
@given(
    prompt=TEXT.filter(bool),
    columns=st.lists(TEXT, max_size=3),
    rounds=st.one_of(st.just("auto"), st.integers(1, 9)),
    alpha=st.floats(1e-6, 0.99),
    backend=st.sampled_from(["blip", "blip2", "chat", "mine:Captioner"]),
)
def test_toml_round_trip(
    prompt: str, columns: list[str], rounds: int | str, alpha: float, backend: str
) -> None:
    # A backend other than the preset's must not get the preset's model and revision.
    config = Config.of("laptop").changed(
        captioner=backend,
        captioner__prompt=prompt,
        paired_by=tuple(columns),
        rounds=rounds,
        statistics__alpha=alpha,
    )
    assert Config.parse(config.to_toml()) == config
    tomllib.loads(config.to_toml())


def test_another_model_drops_the_revision_of_the_old_one() -> None:
    config = Config.of("laptop").with_set({"captioner.model": "owner/name"})
    assert config.captioner.arguments()["model"] == "owner/name"
    assert config.captioner.arguments()["revision"] is None
    both = Config.of("laptop").with_set(
        {"captioner.model": "owner/name", "captioner.revision": "x"}
    )
    assert both.captioner.arguments()["revision"] == "x"
    same = Config.of("laptop").with_set({"captioner.model": BASE, "captioner.num_beams": "2"})
    assert len(same.captioner.arguments()["revision"]) == 40


def test_json_has_no_secrets_of_an_address() -> None:
    url = "https://user:hidden@host:81/v1?key=hidden&api-version=2024-10-21"
    config = Config.of("laptop").changed(llm__base_url=url)
    assert config.llm.base_url == url
    kept = config.model_dump(mode="json")["llm"]["base_url"]
    assert kept == "https://host:81/v1?api-version=2024-10-21"
    assert Config.parse(config.to_toml()) == config
    plain = "http://localhost:8000/v1?api-version=2024-10-21"
    assert Config().changed(llm__base_url=plain).model_dump(mode="json")["llm"]["base_url"] == plain


def test_the_command_of_a_report_has_no_secrets_of_an_address() -> None:
    app = typer.Typer()

    @app.command()
    def show(context: typer.Context, set_: Annotated[list[str], typer.Option("--set")]) -> None:
        typer.echo(command_line(context))

    shown = CliRunner().invoke(
        app, ["--set", "llm.base_url=https://u:hidden@host/v1", "--set", "a=b"]
    )
    assert shown.exit_code == 0
    assert "hidden" not in shown.stdout
    assert shlex.split(shown.stdout)[1:] == [
        "--set",
        "llm.base_url=https://host/v1",
        "--set",
        "a=b",
    ]


def test_a_file_builds_on_the_preset_it_names(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('preset = "miniature"\nseed = 7\n[statistics]\nalpha = 0.01\n')
    config = Config.of(str(path))
    expected = Config.of("miniature").changed(seed=7, statistics__alpha=0.01)
    assert config == expected
    assert isinstance(config.ranker, ClipConfig)
    assert config.ranker.model == "miniature"
    assert Config.read(path) == config


def test_another_backend_starts_from_its_own_defaults() -> None:
    laptop = Config.of("laptop")
    assert isinstance(laptop.captioner, BlipConfig)
    assert laptop.captioner.model is not None
    for changed in (
        laptop.changed(captioner="blip2"),
        laptop.with_set({"captioner": "blip2"}),
        laptop.with_set({"captioner.backend": "blip2"}),
        Config.parse('preset = "laptop"\n[captioner]\nbackend = "blip2"'),
    ):
        assert changed.captioner == Blip2Config()


def test_the_same_backend_keeps_its_settings() -> None:
    laptop = Config.of("laptop")
    assert laptop.changed(captioner=laptop.captioner.backend) == laptop


@pytest.mark.parametrize("backend_first", [True, False])
def test_backend_and_its_settings_together(backend_first: bool) -> None:
    settings = {"captioner": "manifest", "captioner__column": "text"}
    names = list(settings) if backend_first else list(reversed(settings))
    config = Config.of("laptop").changed(**{name: settings[name] for name in names})
    assert config.captioner == ManifestCaptionerConfig(column="text")


def test_changed_is_a_copy_and_none_changes_nothing() -> None:
    config = Config.of("laptop")
    assert config.changed(seed=None, captioner=None, paired_by=None) == config
    assert config.changed(seed=5).seed == 5
    assert config.seed == 0
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3


def test_set_reads_toml_values() -> None:
    config = Config.of("laptop").with_set(
        {
            "statistics.alpha": "0.01",
            "proposer.max_hypotheses": "7",
            "rounds": "auto",
            "device": '"cpu"',
            "paired_by": '["prompt", "seed"]',
            "captioner.prompt": "a photo of",
            "ranker": "captions-lexical",
        }
    )
    assert config.statistics.alpha == 0.01
    assert isinstance(config.proposer, SeveralConfig)
    assert {m.max_hypotheses for m in config.proposer.members.values()} == {7}
    assert config.rounds == "auto"
    assert config.device == "cpu"
    assert config.paired_by == ("prompt", "seed")
    assert isinstance(config.captioner, BlipConfig)
    assert config.captioner.prompt == "a photo of"
    assert config.ranker == CaptionsLexicalConfig()


def test_the_chat_model_is_a_table_like_the_others() -> None:
    config = Config.of("laptop").with_set(
        {
            "llm": "mine:Chat",
            "llm.model": "qwen",
            "llm.base_url": "http://localhost:8000/v1",
            "llm.max_cost": "1.5",
            "llm.max_calls": "100",
            "llm.temperature": "0",
            "proposer": "captions-llm",
            "proposer.goal": "find bias",
            "proposer.leave_out": '["weather", "people"]',
        }
    )
    assert (config.llm.backend, config.llm.model) == ("mine:Chat", "qwen")
    assert config.llm.temperature == 0.0
    assert isinstance(config.proposer, CaptionsLlmConfig)
    assert config.proposer.leave_out == ("weather", "people")
    assert Config.parse(config.to_toml()) == config
    manual = config.with_set(
        {"proposer": "manual", "proposer.hypotheses": '["A: a \\"dog\\"", "B: {x} # y"]'}
    )
    assert isinstance(manual.proposer, ManualConfig)
    assert manual.proposer.hypotheses == ('A: a "dog"', "B: {x} # y")
    assert Config.parse(manual.to_toml()) == manual
    # Another backend starts from its own defaults, except for the limits; there is no API key.
    kept = LlmConfig(backend="openai", max_cost=1.5, max_calls=100)
    assert config.changed(llm="openai").llm == kept
    for key in ("api_key", "key", "token"):
        with pytest.raises(InputError, match=r"Expected known settings in --set, got 'llm\."):
            config.with_set({f"llm.{key}": "sk-1"})


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"llm.max_calls": "-1"}, r"llm\.max_calls .* greater than or equal to 0, got -1"),
        ({"llm.max_cost": "-1"}, r"llm\.max_cost .* greater than or equal to 0, got -1"),
        ({"llm.concurrency": "0"}, r"llm\.concurrency .* greater than or equal to 1, got 0"),
        ({"llm.timeout": "0"}, r"llm\.timeout .* greater than 0, got 0"),
        (
            {"proposer": "images-vlm", "proposer.ask": "0"},
            r"proposer\.ask .* greater than or equal to 1, got 0",
        ),
        (
            {"proposer": "images-vlm", "proposer.layout": "heap"},
            r"proposer\.layout .* 'grid' or 'images', got 'heap'",
        ),
        (
            {"proposer": "manual", "proposer.hypotheses": '"a dog"'},
            r"proposer\.hypotheses .* tuple, got 'a dog'",
        ),
    ],
)
def test_invalid_settings_of_chat_backends(update: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Config.of("laptop").with_set(update)


def test_unknown_preset_with_a_suggestion() -> None:
    with pytest.raises(InputError, match=r"got 'minature'\. Did you mean 'miniature'") as caught:
        Config.of("minature")
    assert "laptop, miniature" in str(caught.value)
    with pytest.raises(InputError, match=r"in run.toml, got 'Laptpo'. Did you mean 'laptop'"):
        Config.parse('preset = "Laptpo"', source="run.toml")


def test_one_of_several_gpus_can_be_chosen() -> None:
    assert Config.of("laptop").with_set({"device": "cuda:1"}).device == "cuda:1"
    with pytest.raises(InputError, match="got 'cuda:x'"):
        Config.of("laptop").with_set({"device": "cuda:x"})


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"sede": "1"}, "Expected known settings in --set, got 'sede'. Did you mean 'seed'"),
        (
            {"ranker.modle": "x"},
            "Expected known settings in --set, got 'ranker.modle'. Did you mean 'model'",
        ),
        (
            {"statistics.zzz": "1"},
            "Expected known settings in --set, got 'statistics.zzz'.* Known: .*alpha",
        ),
        ({"statistics.alpha": "2"}, "Expected statistics.alpha in --set to be less than 1, got 2"),
        ({"seed": "many"}, "Expected seed in --set to be a valid integer, got 'many'"),
        ({"seed.x": "1"}, "Expected seed in --set to be a valid integer"),
        ({"device": "gpu"}, "Expected device .* 'cuda' or 'mps', got 'gpu'"),
        ({"rounds": "0"}, "Expected rounds .* greater than or equal to 1 or 'auto', got 0"),
        ({"rounds": "lots"}, "Expected rounds .* a valid integer or 'auto', got 'lots'"),
        ({"seed": "1", "seed.x": "1"}, "got a value and nested settings"),
    ],
)
def test_invalid_settings_are_reported_in_one_sentence(
    update: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Config.of("laptop").with_set(update)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("update", "message"),
    [
        (
            {"proposer": "ngrams", "proposer.goal": "x"},
            r"'ngrams' does not have; .* has it \(captions-llm, .*\)",
        ),
        ({"ranker.tile": "64"}, r"'clip' does not have; .* has it \(vqa\)"),
        (
            {"verify": "captions-lexical", "verify.template": "{}"},
            r"does not have; .* has it \(clip\)",
        ),
        ({"captioner.column": "text"}, r"'blip' does not have; .* has it \(manifest\)"),
        ({"captioner": "manifest", "captioner.colum": "x"}, "Did you mean 'column'"),
    ],
)
def test_a_setting_that_a_backend_does_not_have(update: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Config.of("laptop").with_set(update)
    assert "Expected known settings in --set" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("role", ["captioner", "proposer", "ranker"])
def test_every_backend_accepts_exactly_its_settings(role: str) -> None:
    for name in registry.names(role):
        parameters = inspect.signature(registry.load(role, name)).parameters
        assert not any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        shared = {"device", "runtime", "llm", "captioner", "encoder", "temperature", "sample_size"}
        settings = MODELS[role][name](backend=name).arguments().keys()
        settings |= {n for n, f in MODELS[role][name].model_fields.items() if f.default is None}
        assert settings == parameters.keys() - shared


def test_a_backend_that_is_not_built_in() -> None:
    config = Config.of("laptop").changed(ranker="fakes:ColourRanker", ranker__batch_size=3)
    assert Config.parse(config.to_toml()) == config
    ranker = registry.make("ranker", Ranker, config.ranker, device="cpu")
    assert ranker.batch_size == 3
    wrong = config.changed(ranker__batchsize=3)
    with pytest.raises(InputError, match=r"got 'batchsize' .did you mean 'batch_size'"):
        registry.make("ranker", Ranker, wrong.ranker, device="cpu")
    with pytest.raises(InputError, match=r"subclass of visdiff\.captioners\.Captioner"):
        registry.make("captioner", Captioner, config.ranker)


def test_unknown_setting_in_python() -> None:
    with pytest.raises(InputError, match="Did you mean 'null_repeats'"):
        Config.of("laptop").changed(null_repeat=3)


def test_invalid_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing\.toml \(No such file"):
        Config.of(str(tmp_path / "missing.toml"))
    broken = tmp_path / "broken.toml"
    broken.write_text("seed = ")
    with pytest.raises(InputError, match=r"Expected TOML in .*broken\.toml"):
        Config.of(str(broken))
    broken.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"broken\.toml with other bytes"):
        Config.of(str(broken))


def test_another_backend_keeps_the_limits_of_the_user() -> None:
    limited = Config.of("miniature").changed(llm__max_calls=3, llm__max_cost=0.5, llm__timeout=7)
    other = limited.with_set({"llm.backend": "scripted"})
    assert (other.llm.max_calls, other.llm.max_cost) == (3, 0.5)
    assert other.llm.timeout == Config().llm.timeout


def test_options_and_assignments_are_made_at_once() -> None:
    laptop = Config.of("laptop")
    # In any order, X is the model of Y.
    config = configuration("laptop", None, ["llm.backend=transformers"], llm__model="x")
    assert (config.llm.backend, config.llm.model) == ("transformers", "x")
    config = configuration("laptop", None, ["ranker.model=RN50"], ranker="clip")
    assert config == laptop.with_set({"ranker.backend": "clip", "ranker.model": "RN50"})
    config = configuration("laptop", None, ["proposer=concepts"], proposer__sampling="diverse")
    assert (config.proposer.backend, config.proposer.sampling) == ("concepts", "diverse")
    assigned = ["proposer.members.concepts.max_hypotheses=3"]
    config = configuration("laptop", None, assigned, proposer="ngrams,concepts")
    assert isinstance(config.proposer, SeveralConfig)
    assert config.proposer.members["concepts"] == ConceptsConfig(max_hypotheses=3)
    # Equal values are no contradiction.
    equal = ["seed=3", 'paired_by=["prompt", "seed"]', "ranker=clip"]
    config = configuration("laptop", None, equal, seed=3, paired_by="prompt, seed", ranker="clip")
    assert (config.seed, config.paired_by) == (3, ("prompt", "seed"))


@pytest.mark.parametrize("proposer", ["ngrams", "ngrams,concepts", "manual"])
def test_the_settings_of_one_proposer_change_wherever_it_is(proposer: str) -> None:
    config = Config().changed(proposer=proposer)
    update = config.proposer.change_of("ngrams", lambda ngrams: {"min_z": 2 * ngrams.min_z})
    changed = config.changed(proposer=update).proposer
    expected = {
        "ngrams": NgramsConfig(min_z=3.28),
        "ngrams,concepts": SeveralConfig(
            backend="ngrams,concepts", members={"ngrams": {"min_z": 3.28}}
        ),
        "manual": ManualConfig(),
    }
    assert changed == expected[proposer]


@pytest.mark.parametrize(
    ("assigned", "options", "message"),
    [
        ("llm.model=z", {"llm__model": "x"}, r"'x' \(--llm\) and 'z' \(--set llm\.model=…\)"),
        ("seed=2", {"seed": 1}, r"1 \(--seed\) and 2 \(--set seed=…\)"),
        ("ranker=vqa", {"ranker": "clip"}, r"'clip' \(--ranker\) and 'vqa'"),
        ("seed=2", {"rounds": 0}, "Expected --rounds to be .*, got 0"),
        ("seed=-2", {"rounds": 2}, "Expected seed in --set to be .*, got -2"),
    ],
)
def test_contradictions_name_both_options(
    assigned: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        configuration("laptop", None, [assigned], **options)


def test_several_proposers_have_a_table_each() -> None:
    config = Config.of("miniature").changed(proposer="ngrams, concepts", proposer__min_z=1.0)
    config = config.with_set({"proposer.members.concepts.max_hypotheses": "3"})
    several = config.proposer
    assert isinstance(several, SeveralConfig)
    assert several.backend == "ngrams,concepts"
    assert several.members == {
        "ngrams": NgramsConfig(min_z=1.0),
        "concepts": ConceptsConfig(min_z=1.0, max_hypotheses=3),
    }
    assert Config.parse(config.to_toml()) == config
    assert Config.model_validate_json(config.model_dump_json()) == config
    # The choice of images is common to all; another proposer starts from its defaults.
    assert config.changed(proposer__sample_size=3).proposer.sample_size == 3
    assert config.changed(proposer="ngrams").proposer == NgramsConfig()


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"proposer": "ngrams,"}, "distinct names of proposers, got 'ngrams,'"),
        ({"proposer": "ngrams,ngrams"}, "distinct names"),
        ({"proposer.goal": "x"}, r"of ngrams or concepts, got .* has it \(captions-llm, .*\)"),
        ({"proposer.goa": "x"}, r"a setting of ngrams or concepts, got 'proposer\.goa'; remove"),
        ({"proposer.members.ngrams.foo": "1"}, r"got 'proposer\.members\.ngrams\.foo'"),
        (
            {"proposer.members.ngrams.min_z": "-1"},
            r"ngrams\.min_z to be greater than",
        ),
        ({"proposer.members.manual.file": "x"}, r"got \['manual'\]"),
        ({"proposer.members.ngrams.sampling": "diverse"}, "for all proposers"),
        ({"proposer.members": "3"}, "in proposer.members, got 3"),
    ],
)
def test_invalid_settings_of_several_proposers(update: dict[str, str], message: str) -> None:
    config = Config.of("miniature").changed(proposer="ngrams,concepts")
    with pytest.raises(InputError, match=message) as caught:
        config.with_set(update)
    assert str(caught.value).startswith("Expected")
    assert len(str(caught.value)) < 250
