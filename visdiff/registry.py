"""Registry of backends, imported on first use.

A role ("captioner", "ranker", …) maps short names to ``"module:Object"`` strings. Nothing is
imported before `load`, so visdiff works without the libraries of unused backends. Other
distributions add names through the entry-point group ``visdiff.<role>s``. A ``"module:Object"``
string is accepted wherever a name is.
"""

import difflib
import inspect
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from visdiff.config.fields import BackendConfig
from visdiff.errors import InputError, MissingBackendError

_BUILT_IN: dict[str, dict[str, str]] = {
    "captioner": {
        "blip": "visdiff.captioners.blip:BlipCaptioner",
        "blip2": "visdiff.captioners.blip:Blip2Captioner",
        "chat": "visdiff.captioners.chat:ChatCaptioner",
        "manifest": "visdiff.captioners.manifest:ManifestCaptioner",
    },
    "encoder": {
        "open_clip": "visdiff.encoders.open_clip:OpenClipEncoder",
    },
    "engine": {
        "local": "visdiff.engine:LocalEngine",
        "ray": "visdiff.engine.ray:RayEngine",
    },
    "judge": {
        "chat": "visdiff.judges.chat:ChatJudge",
        "human": "visdiff.judges.human:HumanJudge",
        "world": "visdiff.judges.world:WorldJudge",
    },
    "llm": {
        "openai": "visdiff.llm.openai:OpenAIChat",
        "scripted": "visdiff.llm.scripted:ScriptedChat",
        "transformers": "visdiff.llm.transformers:TransformersChat",
    },
    "proposer": {
        "blip2-features": "visdiff.proposers.blip2_features:Blip2FeaturesProposer",
        "captions-llm": "visdiff.proposers.captions_llm:CaptionsLlmProposer",
        "concepts": "visdiff.proposers.concepts:ConceptsProposer",
        "images-vlm": "visdiff.proposers.images_vlm:ImagesVlmProposer",
        "manual": "visdiff.proposers.manual:ManualProposer",
        "ngrams": "visdiff.proposers.ngrams:NgramProposer",
        "paired-captions-llm": "visdiff.proposers.captions_llm:PairedCaptionsLlmProposer",
    },
    "ranker": {
        "captions-lexical": "visdiff.rankers.captions_lexical:CaptionsLexicalRanker",
        "captions-llm": "visdiff.rankers.captions_llm:CaptionsLlmRanker",
        "clip": "visdiff.rankers.clip:ClipRanker",
        "vqa": "visdiff.rankers.vqa:VqaRanker",
    },
}


def names(role: str) -> list[str]:
    """Returns the sorted names of a role's backends, built in and installed.

    Raises:
        InputError: The role is unknown.
    """
    return sorted({*_table(role), *(point.name for point in _installed(role))})


def check_name(role: str, name: str) -> None:
    """Checks the name of a backend without importing it.

    Raises:
        InputError: The role or name is unknown.
    """
    if ":" not in name and name not in (known := names(role)):
        raise _unknown(role, name, known)


def load(role: str, name: str) -> Any:
    """Imports a backend by its name.

    Args:
        role: "captioner", "encoder", "engine", "judge", "llm", "proposer" or "ranker".
        name: A name from `names`, or ``"module:Object"``.

    Returns:
        The class or function; the caller creates the instance.

    Raises:
        InputError: The role or name is unknown, several distributions define the name, or there is
            no such ``"module:Object"``.
        MissingBackendError: A library that the backend needs is not installed.
    """
    if ":" in name:
        _table(role)
        return _resolve(role, name)
    claims = [point.value for point in _installed(role) if point.name == name]
    if name in _table(role):
        claims.insert(0, _table(role)[name])
    # A distribution may be found twice on the path; only different targets conflict.
    claims = list(dict.fromkeys(claims))
    if len(claims) > 1:
        raise InputError(
            f"Expected one {role} named {name!r}, got {len(claims)} ({', '.join(claims)}); "
            f"uninstall all but one of the distributions that define it, or write the one you mean "
            f"in full."
        )
    if not claims:
        raise _unknown(role, name, names(role))
    return _resolve(role, claims[0])


def make(role: str, base: type, settings: BackendConfig, **offered: Any) -> Any:
    """Makes the backend that a table of the configuration names.

    Args:
        role: As for `load`.
        base: The class of the role, which the backend inherits from.
        settings: The table; all of its settings are passed.
        **offered: What the run has for its backends, such as ``device``; passed to those whose
            constructor takes it.

    Raises:
        InputError: There is no such backend, it does not inherit from ``base``, or it lacks one of
            the settings.
        MissingBackendError: A library that the backend needs is not installed.
    """
    backend, given = load(role, settings.backend), settings.arguments()
    parameters = inspect.signature(backend).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        offered = {name: value for name, value in offered.items() if name in parameters}
        own = [name for name in parameters if name not in offered]
        for name in given:
            if name not in parameters:
                raise InputError(
                    f"expected settings of the {role} {settings.backend!r} "
                    f"({', '.join(own) or 'it has none'}), got {name!r}{_did_you_mean(name, own)}."
                )
    made = backend(**{**offered, **given})
    if base not in type(made).__mro__:
        raise InputError(
            f"expected a subclass of {base.__module__}.{base.__name__} as the {role} "
            f"{settings.backend!r}, got {type(made).__name__}; inherit from it."
        )
    return made


def _table(role: str) -> dict[str, str]:
    if role not in _BUILT_IN:
        raise InputError(
            f"Expected a role, got {role!r}{_did_you_mean(role, list(_BUILT_IN))}; "
            f"use one of {', '.join(_BUILT_IN)}."
        )
    return _BUILT_IN[role]


def _unknown(role: str, name: str, known: list[str]) -> InputError:
    return InputError(
        f"Expected the name of a {role}, got {name!r}{_did_you_mean(name, known)}; use one of "
        f'{", ".join(known) or "none (no backend is installed)"}, or "module:Object".'
    )


def _installed(role: str) -> list[EntryPoint]:
    return list(entry_points(group=f"visdiff.{role}s"))


def _did_you_mean(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name.lower(), known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _resolve(role: str, target: str) -> Any:
    module_name, _, path = target.partition(":")
    if not module_name or not path:
        raise InputError(
            f'Expected "module:Object" for a {role}, got {target!r}; write for example '
            f'"my_package.my_module:MyClass".'
        )
    try:
        value: Any = import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if module_name == missing or module_name.startswith(missing + "."):
            raise InputError(
                f"Expected an importable module for the {role} {target!r}, but there is no module "
                f"{missing!r}; check the spelling, or install the distribution that has it."
            ) from error
        raise MissingBackendError(
            f"Expected the library {missing!r} for the {role} {target!r}, got no such "
            f"installation; install it with `pip install {missing.partition('.')[0]}`."
        ) from error
    for part in path.split("."):
        try:
            value = getattr(value, part)
        except AttributeError as error:
            known = [item for item in vars(value) if not item.startswith("_")]
            raise InputError(
                f"Expected {path!r} in module {module_name!r} for a {role}, but there is none"
                f"{_did_you_mean(path, known)}; check the spelling."
            ) from error
    return value
