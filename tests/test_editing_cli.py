"""`visdiff edit`: the commands, their output and their errors."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_pipelines as tiny
from typer.testing import CliRunner, Result

import editing
from editing.cli.edit import app
from editing.edit import Edit
from editing.pipelines.loading import load_pipeline
from editing.pipelines.weights import weight_hash
from editing.requests import Debias, Erase, Preserve, Replace
from editing.requests.toml import read_requests, read_texts
from visdiff.errors import InputError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny.sd1().save_pretrained(folder)
    return folder


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_erase_writes_an_edit_and_prints_its_diagnostics(model: Path, tmp_path: Path) -> None:
    listed = tmp_path / "keep.txt"
    listed.write_text("house\n\ntulip\n")
    out = tmp_path / "e.safetensors"
    result = run("erase", model, "--concept", "church", "--concept", "fire engine", "--target",
                 "car", "--preserve", "castle", "--preserve", listed, "--set", "lam_rel=0.001",
                 "--out", out)  # fmt: skip
    edit = Edit.load(out)
    assert edit.requests == (
        Erase("church", "car"),
        Erase("fire engine", "car"),
        Preserve(["castle", "house", "tulip"]),
    )
    assert edit.config["lam_rel"] == 0.001
    assert "tokens of 'church': 1 church</w>, 2 end, 3–31 padding" in result.stdout
    assert f"digest: {edit.digest}" in result.stdout
    shown = run("show", out)
    assert edit.digest in shown.stdout
    assert json.loads(run("show", out, "--json").stdout) == edit.to_dict()


def test_debias_and_moderate(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "e.safetensors"
    ratios = ["--ratio", "man=0.5", "--ratio", "woman=0.5"]
    weights = ["--weight", "man=-0.1", "--weight", "woman=0.2"]
    method = ["--method", "uce-2025"]
    run("debias", model, "--concept", "judge", *ratios, *weights, *method, "--out", out)
    edit = Edit.load(out)
    assert edit.requests == (
        Debias("judge", {"man": 0.5, "woman": 0.5}, {"man": -0.1, "woman": 0.2}),
    )
    assert edit.method == "uce-2025"
    printed = json.loads(run("moderate", model, "--concept", "bomb", "--json", "--out", out).stdout)
    assert printed["requests"] == [{"kind": "moderate", "concept": "bomb", "scale": 1.0}]


def test_a_request_file_is_one_solve(model: Path, tmp_path: Path) -> None:
    (tmp_path / "keep.txt").write_text("house\n")
    (tmp_path / "requests.toml").write_text(
        """
        method = "uce"
        watch = ["tulip"]
        [config]
        lam_rel = 0.001
        [[erase]]
        concept = "church"
        [[replace]]
        concept = "dog"
        target = "cat"
        [[debias]]
        concept = "judge"
        ratios = {man = 0.5, woman = 0.5}
        [[preserve]]
        concepts = ["castle"]
        file = "keep.txt"
        """
    )
    out = tmp_path / "e.safetensors"
    run("run", model, tmp_path / "requests.toml", "--out", out)
    requests = [
        Erase("church"),
        Replace("dog", "cat"),
        Debias("judge", {"man": 0.5, "woman": 0.5}),
        Preserve(["castle", "house"]),
    ]
    expected = editing.fit(load_pipeline(model), requests, lam_rel=0.001, neighbours=["tulip"])
    edit = Edit.load(out)
    assert edit.digest == expected.digest
    assert "tulip" in {n["concept"] for n in edit.diagnostics["neighbours"]}


SHORT = ["runs=1", "run_steps=2", "steps=2"]


def test_training_methods_print_cost_show_progress_and_resume(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Bars are shown in notebooks and on terminals only.
    monkeypatch.setattr("typer.testing._NamedTextIOWrapper.isatty", lambda self: True)
    out, state = tmp_path / "e.safetensors", tmp_path / "state.safetensors"
    short = [word for setting in SHORT for word in ("--set", setting)]
    esd = ["erase", model, "--concept", "church", "--method", "esd-x", *short]
    result = run(*esd, "--checkpoint", state, "--out", out)
    assert "2 steps of " in result.stderr
    assert "training: 100%" in result.stderr
    first = Edit.load(out)
    assert first.method == "esd-x"
    again = run(*esd, "--checkpoint", state, "--out", out)
    assert "training: 100%|██████████| 2/2" in again.stderr
    assert Edit.load(out).digest == first.digest
    preserving = ["--method", "all-but-one", "--preserve", "castle", *short]
    run("moderate", model, "--concept", "bomb", *preserving, "--out", out)
    assert Edit.load(out).requests[1] == Preserve(["castle"])


def test_a_request_file_can_choose_a_training_method(model: Path, tmp_path: Path) -> None:
    config = "\n".join(SHORT)
    file, out = tmp_path / "requests.toml", tmp_path / "e.safetensors"
    file.write_text(f"method = 'concept-ablation'\n[config]\n{config}\n[[erase]]\nconcept = 'dog'")
    run("run", model, file, "--out", out)
    assert Edit.load(out).method == "concept-ablation"


@pytest.mark.parametrize(
    ("method", "option"),
    [
        ("esd-u", ["--corpus", "words.txt"]),
        ("esd-u", ["--watch", "castle"]),
        ("uce", ["--checkpoint", "state.safetensors"]),
    ],
)
def test_options_that_a_method_does_not_have_are_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, option: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("words.txt").write_text("a house\n")
    with pytest.raises(InputError, match=f"Expected no {option[0]} for {method}"):
        run("erase", model, "--concept", "dog", "--method", method, *option, "--out", "e")


def test_apply_writes_the_edited_model_or_a_lora(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "e.safetensors"
    run("erase", model, "--concept", "church", "--out", out)
    run("apply", model, out, "--out", tmp_path / "edited")
    pipe = load_pipeline(model)
    with Edit.load(out).applied(pipe):
        expected = weight_hash(pipe)
    assert weight_hash(load_pipeline(tmp_path / "edited")) == expected
    with pytest.raises(InputError, match="got that of the unedited one"):
        run("apply", model, out, "--out", model)
    run("apply", model, out, "--as", "lora", "--out", tmp_path / "lora.safetensors")
    assert (tmp_path / "lora.safetensors").stat().st_size > 0


def test_files_of_other_tools_are_exported_imported_and_shown(model: Path, tmp_path: Path) -> None:
    own, lora, again = (tmp_path / n for n in ("e.safetensors", "l.safetensors", "i.safetensors"))
    run("erase", model, "--concept", "church", "--out", own)
    result = run("export", own, "--as", "kohya", "--base", model, "--out", lora)
    assert result.stdout.strip() == str(lora)
    shown = run("show", lora).stdout
    assert "a LoRA of kohya's sd-scripts" in shown
    assert "visdiff edit import" in shown
    assert json.loads(run("show", lora, "--json").stdout)["files"][0]["format"] == "kohya"
    assert "import edit of tiny" in run("import", lora, "--base", model, "--out", again).stdout
    pipe = load_pipeline(model)
    with Edit.load(own).applied(pipe):
        expected = tiny.picture(pipe)
    with Edit.load(again).applied(pipe):
        assert abs(tiny.picture(pipe) - expected).max() <= 1e-4
    run("export", lora, "--as", "folder", "--base", model, "--out", tmp_path / "whole")
    assert abs(tiny.picture(load_pipeline(tmp_path / "whole")) - expected).max() <= 1e-4


def test_audit_and_generate_take_files_of_other_tools(model: Path, tmp_path: Path) -> None:
    import typer
    from safetensors.torch import save_file

    from editing.cli.audit import app as audit
    from editing.cli.generate import generate

    state = load_pipeline(model).unet.state_dict()
    edited = {n: v + 0.01 for n, v in state.items() if "attn2.to_k" in n or "attn2.to_v" in n}
    file = tmp_path / "uce.safetensors"
    save_file({**edited, "more": next(iter(edited.values())) + 1}, file)
    (tmp_path / "prompts.csv").write_text("prompt,group,concept\na dog,dogs,dog\n")
    drawing = typer.Typer()
    drawing.command()(generate)
    for command, arguments in (
        (drawing, [model, "--prompt", "a dog", "--steps", 2]),
        (audit, ["--base", model, "--prompts", tmp_path / "prompts.csv", "--dry-run"]),
    ):
        options = [*arguments, "--edit", file, "--out", tmp_path / "out"]
        result = CliRunner().invoke(command, [str(o) for o in options], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        assert "warning: 1 tensors of the file were not used: more" in result.output
    assert len(list((tmp_path / "out").rglob("*.png"))) == 2


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[[erase]]\ncept = 1", "Expected concept, target, scale in a request to erase, got cept"),
        ("[[delete]]\nconcept = 'a'", "Expected a request of kind"),
        ("erase = 'church'", r"got 'erase'"),
        ("[[erase]", "Expected TOML"),
        ("[[preserve]]\nfile = 'none.txt'", "a text file with one concept per line"),
        ("config = 'lam'", "Expected config as a table of settings"),
        ("watch = 'tulip'", "Expected watch as a list of concepts"),
        ("[[erase]]\nconcept = 'a'\ntarget = 3", "Expected a text as target of 'a', got 3"),
        ("[[erase]]\nconcept = 'a'\nscale = '2'", "Expected a scale above zero for 'a', got '2'"),
        ("[[erase]]\nconcept = 'a'\nscale = inf", "Expected a scale above zero for 'a', got inf"),
        ("[[preserve]]\nconcepts = 5", "as a list of texts, got 5"),
        ("[[debias]]\nconcept = 'a'\nratios = 'b'", "as a table of numbers, got 'b'"),
        ("[[debias]]\nconcept = 'a'\nratios = {b = '.5', c = '.5'}", "as a table of numbers"),
        (
            "[[debias]]\nconcept = 'a'\nratios = {b = 0.5, c = 0.5}\nweights = 3",
            "the weights of 'a' as a table of numbers, got 3",
        ),
    ],
)
def test_a_request_file_with_a_mistake_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "requests.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=sentence):
        read_requests(path)


def test_a_single_preserved_text_is_not_split_into_letters(tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("a house\n")
    path = tmp_path / "requests.toml"
    path.write_text("[[preserve]]\nconcepts = 'castle'\nfile = 'more.txt'\n")
    (request,) = read_requests(path).requests
    assert request.preserved == ("castle", "a house")


def test_a_long_text_is_no_file() -> None:
    text = f"{'a very ' * 50}old castle. A dog"
    assert read_texts(text) == [text]


def test_visdiff_has_the_command_and_prints_errors_on_one_line(tmp_path: Path) -> None:
    def visdiff(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "visdiff.cli", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=240)

    result = visdiff("edit", "show", tmp_path / "none.safetensors")
    assert result.returncode == 2
    assert result.stderr.startswith("visdiff: Expected an edit's file")
    assert result.stderr.count("\n") == 1


def test_the_package_is_cheap_to_import() -> None:
    code = (
        "import sys, editing, editing.cli.edit; "
        "print([n for n in ('torch', 'diffusers', 'transformers') if n in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.parametrize("name", editing.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert callable(getattr(editing, name))
    assert name in dir(editing)


@pytest.mark.parametrize(
    ("method", "wrong", "message"),
    [
        ("uce", "lamm=1", "did you mean 'lam'"),
        ("uce", "lam=-1", "got lam "),
        ("rece", "epochs=0", "got epochs "),
        ("esd-x", "step=3", "did you mean 'steps'"),
        ("esd-x", "weights=all", "Expected weights as esd-x defines it"),
        ("uce", "pipe=x", "got 'pipe'"),
        ("uce", "nearest=abc", "got nearest "),
        ("uce", "on_event=x", "got 'on_event'"),
        ("uce", "corpus=x", "got 'corpus'"),
        ("esd-x", "save_every=0", "got save_every "),
        ("esd-x", "runs_in=3", "got runs_in"),
    ],
)
def test_wrong_settings_are_found_before_the_model_is_loaded(
    tmp_path: Path, method: str, wrong: str, message: str
) -> None:
    # Loading it would fail, with another message.
    (tmp_path / "model_index.json").write_text("{")
    out = tmp_path / "e.safetensors"
    options = ["--method", method, "--set", wrong, "--out", out]
    with pytest.raises(InputError, match=message):
        run("erase", tmp_path, "--concept", "church", *options)
    file = tmp_path / "requests.toml"
    name, value = wrong.split("=")
    value = value if value.lstrip("-").isdigit() else json.dumps(value)
    file.write_text(f'method = "{method}"\n[config]\n{name} = {value}\n[[erase]]\nconcept = "x"\n')
    with pytest.raises(InputError, match=message):
        run("run", tmp_path, file, "--out", out)
    with pytest.raises(InputError) as caught:
        run("erase", tmp_path, "--concept", "church", "--set", "nearest=1", "--out", out)
    assert str(tmp_path) in str(caught.value)


def test_a_search_for_weights_checks_its_settings_before_the_model_is_loaded(
    tmp_path: Path,
) -> None:
    (tmp_path / "model_index.json").write_text("{")
    words = ["debias", tmp_path, "--concept", "judge", "--ratio", "man=0.5", "--ratio", "woman=0.5"]
    out = tmp_path / "e.safetensors"
    with pytest.raises(InputError, match="did you mean 'lam'"):
        run(*words, "--seed", "3", "--set", "lamm=1", "--out", out)
    with pytest.raises(InputError, match="got 'control'"):
        run(*words, "--set", "control=1", "--out", out)
