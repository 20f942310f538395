"""Settings of the methods, which `visdiff settings` lists with those of comparisons."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from editing.settings import MethodConfig
    from visdiff.config.listing import Setting


def edit_settings() -> "list[Setting]":
    """Returns the settings of the methods of `visdiff edit`, as "edit.METHOD.NAME".

    Those that define a method and cannot be changed are left out.
    """
    from editing.methods import find, names
    from visdiff.config.listing import settings_of

    found: list[Setting] = []
    for name in names():
        method, path = find(name), f"edit.{name}."
        usable = type(method.config).model_fields.keys() - method.fixed
        found += _with_variants(path, method.config, usable, method.variants)
        found += settings_of(method.run, path, type(method.run).model_fields)
    return found


def personalize_settings() -> "list[Setting]":
    """Returns the settings of the methods of `visdiff personalize`, as "personalize.METHOD.NAME".

    Each method has the common ones and its own.
    """
    from editing.personalize import find, names
    from editing.personalize.settings import COMMON

    found: list[Setting] = []
    for name in names():
        method = find(name)
        path = f"personalize.{name}."
        found += _with_variants(path, method.config, COMMON | method.own, method.variants)
    return found


def _with_variants(
    path: str, config: "MethodConfig", names: Any, variants: Mapping[str, Mapping[str, Any]]
) -> "list[Setting]":
    """Returns the settings; descriptions end with the defaults of other models."""
    from visdiff.config.listing import settings_of

    found = {s.name: s for s in settings_of(config, path, names)}
    for model, values in variants.items():
        changed = config.changed(**values)
        for s in settings_of(changed, path, names):
            if s.default != found[s.name].default:
                text = f"{found[s.name].description} {model}: {s.default}."
                found[s.name] = replace(found[s.name], description=text)
    return list(found.values())
