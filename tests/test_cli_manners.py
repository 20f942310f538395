"""The command line's manners: help of every option, one meaning a name, quick answers."""

import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tiny_pipelines as tiny
import typer
from fakes import place_captions, write_set
from typer.testing import CliRunner

from editing import methods
from editing.cli.fit import parse_settings
from editing.cli.settings import edit_settings, personalize_settings
from editing.personalize import find as find_personalizer
from editing.personalize import names as personalizers
from editing.pipelines.spelling import misspellings
from visdiff.cli.app import app
from visdiff.cli.groups import MAIN
from visdiff.config import Config
from visdiff.config.listing import list_settings
from visdiff.errors import InputError
from visdiff.progress import is_hidden
from visdiff.spelling import suggestion

ROOT = Path(__file__).parents[1]
TOP = [
    "demo", "doctor", "compare", "rank", "caption", "generate", "edit", "personalize", "audit",
    "bench", "settings", "cache",
]  # fmt: skip
# Options whose text names what this command does with the same thing.
OWN_TEXT = {
    "--as": "formats of pipelines and of adapters",
    "--class-images": "missing images are generated, or read",
    "--config": "settings of a comparison or of a method",
    "--images": "a number of images: of a prompt, a concept or a group",
    "--kind": "the default differs",
    "--method": "editing or personalisation",
    "--out": "FILE or DIR, as the metavar says",
    "--prompts": "a prompt file, with other columns",
    "--seed": "a random seed, of what the command draws",
    "--set": "settings of a comparison or of a method",
}
# Options of different kinds of values under one name.
OWN_TYPE = {"--as", "--out"}


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yields path and command of every command of a tree, groups that are commands included."""
    inner = getattr(group, "commands", None)
    if inner is None or group.invoke_without_command:
        yield " ".join(path), group
    for name, command in (inner or {}).items():
        yield from commands(command, path if name == MAIN else (*path, name))


TREE: Any = typer.main.get_command(app)
CONTEXT = TREE.make_context("visdiff", ["doctor"])
OPTIONS = [
    (path, option)
    for path, command in commands(TREE)
    for option in command.params
    if option.param_type_name == "option"
]


def test_the_tree_has_two_levels_in_the_order_of_use() -> None:
    assert TREE.list_commands(CONTEXT) == TOP
    assert max(len(path.split()) for path, _ in commands(TREE)) == 2


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("compare-many", "visdiff compare many"),
        ("recipe", "visdiff compare"),
        ("batch", "visdiff caption submit"),
    ],
)
def test_a_moved_command_names_its_place(old: str, new: str) -> None:
    with pytest.raises(InputError, match=new):
        CliRunner().invoke(app, [old, "x"], catch_exceptions=False)


def test_every_parameter_explains_itself() -> None:
    for path, command in commands(TREE):
        assert command.help, path
        for parameter in command.params:
            name = f"{path} {parameter.name}"
            assert parameter.help, name
            # What people write there has a name, or choices; a name of a type says nothing.
            shown = parameter.metavar or ""
            assert not {"TEXT", "INTEGER", "FLOAT", "PATH"} & set(shown.split("|")), name
            if parameter.param_type_name == "argument":
                assert parameter.metavar == parameter.metavar.upper(), name
                continue
            flag = parameter.is_flag
            assert flag or parameter.required or shown_default(parameter), name
            assert flag or shown or has_choices(parameter), name


def shown_default(option: Any) -> bool:
    if isinstance(option.show_default, str):
        return bool(option.show_default)
    return option.show_default and option.default not in (None, "", (), [])


def has_choices(option: Any) -> bool:
    return "|" in option.get_help_record(CONTEXT)[0]


def test_a_name_of_an_option_means_one_thing() -> None:
    texts: dict[str, set[str]] = {}
    kinds: dict[str, set[Any]] = {}
    for _, option in OPTIONS:
        for name in option.opts:
            texts.setdefault(name, set()).add(option.help)
            kind = (option.metavar, option.multiple, option.is_flag)
            kinds.setdefault(name, set()).add(kind)
    assert {n for n, found in texts.items() if len(found) > 1} <= set(OWN_TEXT)
    several = {n for n, found in kinds.items() if len(found) > 1}
    assert several <= OWN_TYPE | {"--set"}
    outputs = {option.metavar for _, option in OPTIONS if "--out" in option.opts}
    assert outputs == {"DIR", "FILE", "FILE|DIR"}
    assert all(text.startswith("Output f") for text in texts["--out"])
    assert all(text.startswith("Random seed") for text in texts["--seed"])


def test_usage_is_written_as_people_write_it() -> None:
    shown = CliRunner().invoke(app, ["compare", "--help"]).stdout
    assert "compare [OPTIONS] A B" in " ".join(shown.split())
    assert "\n  many " in shown
    assert "[OPTIONS] EDIT" in CliRunner().invoke(app, ["edit", "show", "--help"]).stdout


def test_a_folder_named_like_a_command_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "many").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "./many" in CliRunner().invoke(app, ["compare", "many", "--help"]).output


def test_version() -> None:
    from visdiff import __version__

    assert CliRunner().invoke(app, ["--version"]).stdout == f"visdiff {__version__}\n"


def test_all_settings_are_listed() -> None:
    found = list_settings()
    assert all(s.description and s.type for s in found)
    assert {s.name.partition(".")[0] for s in found} == set(Config.model_fields)
    for setting in found:
        if setting.backend or setting.default in ("", "none") or "list" in setting.type:
            continue
        # What is listed as the default can be set.
        Config().with_set({setting.name: setting.default})
    assert "statistics.alpha: number, default 0.05" in settings_text("statistics.alpha")
    with pytest.raises(InputError, match="choose from"):
        settings_text("statistcs")


def test_settings_of_methods_are_listed() -> None:
    found = [*edit_settings(), *personalize_settings()]
    assert all(s.description and s.type for s in found)
    by_method: dict[tuple[str, str], dict[str, str]] = {}
    for s in found:
        command, method, name = s.name.split(".")
        by_method.setdefault((command, method), {})[name] = s.default
    assert list(by_method) == [
        *(("edit", name) for name in methods.names()),
        *(("personalize", name) for name in personalizers()),
    ]
    for (command, method), defaults in by_method.items():
        found_method: Any = (methods.find if command == "edit" else find_personalizer)(method)
        config = found_method.config
        known = {
            n: d for n, d in defaults.items() if n in type(config).model_fields and d != "none"
        }
        # What is listed as the default can be set, and changes nothing.
        values = parse_settings([f"{n}={d}" for n, d in known.items()])
        assert config.changed(**values) == config
    # TIME preserves nothing.
    assert "null_scale" not in by_method["edit", "time"]
    assert by_method["personalize", "dreambooth"].keys().isdisjoint({"rank", "vectors"})


def test_prefixes_name_commands_and_methods() -> None:
    assert "edit.uce.lam: number, default none" in settings_text("edit.uce")
    assert "uce-2024" not in settings_text("edit.uce")
    assert "settings personalize" in CliRunner().invoke(app, ["settings"]).stderr
    for wrong, near in [("edit.ucee", "edit.uce"), ("edti.uce", "edit"), ("statistcs.a", "stat")]:
        with pytest.raises(InputError, match=f"did you mean '{near}"):
            settings_text(wrong)


def settings_text(prefix: str) -> str:
    return CliRunner().invoke(app, ["settings", prefix], catch_exceptions=False).stdout


def test_bars_are_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    # A library that imports it makes no notebook.
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    assert is_hidden()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert not is_hidden()
    assert is_hidden(wanted=False)
    stream = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})
    monkeypatch.setattr(sys, "stderr", stream())
    assert not is_hidden()


# Mistakes ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mistakes")
    for name in ("a", "b"):
        write_set(root / name, place_captions(20, 1, place="on the grass"), seed=1)
    return root


def run(folder: Path, *arguments: object, **environment: str) -> tuple[float, Any]:
    """Returns the CPU seconds and the result of a command in its own process."""
    before = os.times()
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )
    after = os.times()
    spent = after.children_user + after.children_system
    return spent - before.children_user - before.children_system, done


MISTAKES = [
    (("comprae", "a", "b"), "Did you mean 'compare'?"),
    (("compare", "nowhere", "b"), "got 'nowhere', where there is nothing"),
    (("compare", "a", "a"), "got 'a' twice"),
    (("compare", "a", "b", "--preset", "minature"), "Did you mean 'miniature'?"),
    (("compare", "a", "b", "--set", "statistics.alhpa=1"), "Did you mean 'alpha'?"),
    (("compare", "a", "b", "--ranker", "clp"), "did you mean 'clip'?"),
    (("generate", "miniature", "--out", "o"), "--prompts FILE or --prompt PROMPT"),
    (
        ("edit", "erase", "miniature", "--concept", "x", "--out", "e", "--method", "ucee"),
        "did you mean 'uce'?",
    ),
    (("edit", "erase", "./nowhere", "--concept", "x", "--out", "e"), "got './nowhere'"),
    (("audit", "--base", "miniature", "--edit", "e", "--out", "o"), "got e, which does not exist"),
    (("personalize", "lora", "miniature", "x", "--noun", "dog", "--out", "e"), "got 'x', where"),
]


def test_typical_mistakes_are_answered_within_a_second(folder: Path) -> None:
    # CPU time relative to Python's start, since other processes slow both down.
    start = min(run(folder, "-c", "pass")[0] for _ in range(3))
    for arguments, says in MISTAKES:
        spent, done = run(folder, "-m", "visdiff.cli", *arguments)
        assert done.returncode == 2, done
        assert says in done.stderr.splitlines()[-1]
        assert done.stdout == ""
        assert spent - start < max(1.0, 30 * start), arguments


def test_a_silent_hub_is_found_before_the_plan(folder: Path) -> None:
    waits = []
    # The kernel accepts connections, and nobody answers them.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for offline in ("1", "0"):
            hub = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": offline, "TRANSFORMERS_OFFLINE": "0"}
            start = time.monotonic()
            _, done = run(folder, "-m", "visdiff.cli", "compare", "a", "b", **hub)
            waits.append(time.monotonic() - start)
            assert done.returncode == 2
            # Sets of 20 images are warned of; no plan and no library says anything.
            *_, said = lines = done.stderr.splitlines()
            assert len(lines) == 1, done.stderr
            assert said.startswith("visdiff: Expected the weights of captioner Salesforce/blip")
            assert ("does not respond" in said) is (offline == "0")
    # Relative to the same command without a hub, since other processes slow both down.
    assert waits[1] - waits[0] < 8


def test_missing_weights_of_the_ranker_are_found_without_torch(
    folder: Path, tmp_path: Path
) -> None:
    words = ["compare", "a/manifest.csv", "b/manifest.csv", "--captioner", "manifest"]
    code = (
        "import sys\nfrom visdiff.cli.app import main\n"
        f"sys.argv[1:] = {words}\n"
        "try:\n    main()\nfinally:\n    print('torch' in sys.modules)"
    )
    hub = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    _, done = run(folder, "-c", code, **hub)
    assert done.returncode == 2
    assert "Expected the weights of open_clip model ViT-B-32" in done.stderr
    assert done.stdout == "False\n"


def test_equal_and_small_sets_lead_with_what_is_wrong(folder: Path, tmp_path: Path) -> None:
    few = write_set(tmp_path / "few", place_captions(2, 1, place="on the grass"), seed=3)
    words = ("--captioner", "manifest", "--ranker", "captions-lexical")
    arguments = ["compare", str(few), str(folder / "b" / "manifest.csv"), *words]
    done = CliRunner().invoke(app, arguments)
    assert done.stderr.startswith("warning: few has 2 images; nothing is confirmed with fewer than")
    assert done.stdout.startswith("too few images to confirm anything")


# Spelling ---------------------------------------------------------------------------------------


def test_near_words_are_suggested() -> None:
    assert suggestion("chruch") == "church"
    assert suggestion("ambulence") == "ambulance"
    # Known words, plurals and names are left alone.
    for word in ("church", "churches", "gogh", "xqzzyv", "of"):
        assert suggestion(word) is None


def test_words_of_the_vocabulary_are_not_warned_of() -> None:
    class Tokenizer:
        def tokenize(self, word: str) -> list[str]:
            return [word] if word == "chruch" else list(word)

    class Pipe:
        tokenizer = Tokenizer()

    assert misspellings(Pipe(), ["a chruch", "an ambulence"]) == {"ambulence": "ambulance"}
    assert misspellings(object(), ["a chruch"]) == {}


def test_a_misspelt_concept_is_warned_of(tmp_path: Path) -> None:
    tiny.sd1().save_pretrained(tmp_path / "model")
    out = tmp_path / "e.safetensors"
    arguments = ["edit", "erase", str(tmp_path / "model"), "--out", str(out)]
    done = CliRunner().invoke(app, [*arguments, "--concept", "a chruch"])
    assert done.exit_code == 0, done.output
    assert "did you mean 'church'?" in done.stderr
    assert out.is_file()


def test_names_cannot_change_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    from visdiff.cli.terminal import print_table

    print_table("a\x1b[31m", ["sentence"], [(True, ["b\x1b]0;title\x07"])])
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "b\\x1b]0;title\\x07" in printed
