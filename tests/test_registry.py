"""The registry of backends."""

import ast
import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path

import pytest

from visdiff import registry
from visdiff.errors import InputError, MissingBackendError

ROLES = ("captioner", "proposer", "ranker", "encoder", "judge", "llm")


def install(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str, str]) -> None:
    """Simulates installed entry points with these (group, name, value)."""
    found = [EntryPoint(name, value, group) for group, name, value in points]
    monkeypatch.setattr(
        registry, "entry_points", lambda group: [point for point in found if point.group == group]
    )


def test_every_built_in_name_has_a_target() -> None:
    # Parsed rather than imported, since the adapters import heavy libraries.
    for role, table in registry._BUILT_IN.items():
        for name, target in table.items():
            module, _, attribute = target.partition(":")
            spec = find_spec(module)
            assert spec is not None, (role, name)
            assert spec.origin is not None, (role, name)
            body = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body
            defined = {
                node.name for node in body if isinstance(node, (ast.ClassDef, ast.FunctionDef))
            }
            assert attribute in defined, (role, name)


def test_lightweight_backends_load() -> None:
    assert registry.load("proposer", "ngrams").__name__ == "NgramProposer"


@pytest.mark.parametrize("role", ROLES)
def test_every_role_is_registered(role: str) -> None:
    assert registry.names(role) == sorted(registry.names(role))


def test_importing_the_registry_imports_no_backend() -> None:
    code = "import sys, visdiff.registry; print([m for m in sys.modules if 'torch' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_raises_with_a_suggestion() -> None:
    with pytest.raises(InputError, match=r"'blip3'.*did you mean 'blip2?'.*manifest"):
        registry.load("captioner", "blip3")


def test_an_unknown_role_raises_with_the_known_roles() -> None:
    with pytest.raises(InputError, match=r"did you mean 'ranker'.*captioner"):
        registry.names("rankers")
    with pytest.raises(InputError, match="Expected a role"):
        registry.load("rankers", "a:b")


def test_entry_points_add_names(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, ("visdiff.judges", "mine", "json:dumps"))
    assert "mine" in registry.names("judge")
    assert registry.load("judge", "mine") is json.dumps


def test_two_distributions_with_one_name_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, ("visdiff.rankers", "clip", "other:Clip"))
    with pytest.raises(InputError, match=r"visdiff\.rankers\.clip:ClipRanker, other:Clip"):
        registry.load("ranker", "clip")


def test_a_duplicate_entry_point_is_no_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    point = ("visdiff.judges", "mine", "json:dumps")
    install(monkeypatch, point, point)
    assert registry.load("judge", "mine")


def test_a_name_may_be_a_module_and_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_backend.py").write_text("class Outer:\n    class Inner: pass\n")
    (tmp_path / "needs_more.py").write_text("import a_library_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert registry.load("judge", "my_backend:Outer.Inner").__name__ == "Inner"
    with pytest.raises(InputError, match="did you mean 'Outer'"):
        registry.load("judge", "my_backend:Outter")
    with pytest.raises(InputError, match="no module 'my_backends'"):
        registry.load("judge", "my_backends:Outer")
    with pytest.raises(InputError, match="module:Object"):
        registry.load("judge", "my_backend:")
    with pytest.raises(MissingBackendError, match="pip install a_library_that_is_not_there"):
        registry.load("judge", "needs_more:Thing")
