"""Edits: changes of a model's weights, with their origin, that can be applied and reverted.

An edit is stored in one safetensors file. Fitting an edit does not change the pipeline; applying it
does, and reverting it restores the original tensors.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from editing.edit import deltas as forms
from editing.edit import ledger as ledgers
from editing.edit.deltas import Delta
from editing.edit.ledger import Ledger
from editing.edit.saving import save_tensors
from editing.pipelines.weights import component_hashes, parameter, weight_hash
from editing.pipelines.wrappers import check_not_quantized, plain_modules
from editing.requests import Request, from_dict
from visdiff.errors import InputError
from visdiff.hashing import canonical_json, digest_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SCHEMA = 1
KEY = "visdiff_edit"
"""Key of the description in the header of a file."""

_PACKAGES = ("visdiff", "torch", "diffusers", "transformers", "safetensors")


@dataclass(frozen=True, eq=False, repr=False)
class Edit:
    """A change of weights and its origin.

    Attributes:
        method: Name of the method that produced it ("uce", "esd-x", "dreambooth").
        requests: The requests that it meets.
        config: Settings of the method, as JSON.
        base_model: Hub id or name of the model it was fitted to.
        base_hash: `editing.pipelines.weights.weight_hash` of that model.
        base_parts: Hash of each component of that model.
        changes: The weight changes.
        ledger: Statistics of each request, for closed-form edits; None for others.
        diagnostics: Results of the fit that need no images, as JSON.
        seeds: Seeds of the method; closed forms use none.
        versions: Package → version at the time of the fit.
    """

    method: str
    requests: tuple[Request, ...]
    config: Mapping[str, Any]
    base_model: str
    base_hash: str
    base_parts: Mapping[str, str]
    changes: tuple[Delta, ...]
    ledger: Ledger | None = None
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    versions: Mapping[str, str] = field(default_factory=lambda: _versions())

    def __post_init__(self) -> None:
        for name in ("config", "base_parts", "diagnostics", "versions"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def __repr__(self) -> str:
        from editing.edit.views import edit_text

        return edit_text(self)

    def _repr_html_(self) -> str:
        from editing.edit.views import edit_html

        return edit_html(self)

    @cached_property
    def digest(self) -> str:
        """Hash of the changes and the base, which determine images: 64 hexadecimal characters.

        The method, the diagnostics and the ledger are not included.
        """
        parts = [forms.content(change) for change in self.changes]
        return digest_bytes(canonical_json([SCHEMA, self.base_hash, parts]).encode())

    @property
    def tensors(self) -> tuple[str, ...]:
        """Full names of the tensors that the edit changes."""
        return tuple(forms.tensors_of(self.changes))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings of the fit."""
        return tuple(self.diagnostics.get("warnings", ()))

    @classmethod
    def of(cls, pipe: Any, *, base_model: str, **fields: Any) -> "Edit":
        """Returns an edit with the hashes of the pipeline that it was fitted to.

        Args:
            pipe: The unedited pipeline.
            base_model: Name of the pipeline's model.
            **fields: The other attributes.
        """
        parts = component_hashes(pipe)
        base_hash = digest_bytes(canonical_json(parts).encode())
        return cls(base_model=base_model, base_hash=base_hash, base_parts=parts, **fields)

    def scaled(self, factor: float) -> "Edit":
        """Returns the edit at another strength: 0 is the base, 1 the edit, −1 its opposite.

        Weights move on the line through base and edit; spectral shifts are multiplied, so their
        weights leave that line once a singular value reaches 0. New tokens stay in the tokenizer:
        at 0 they are the words that they were initialised from.

        Raises:
            InputError: The edit adds tokens whose starts are not known, and the factor is not 1.
        """
        changed = tuple(change.scaled(factor) for change in self.changes)
        # Solving from the ledger would give the unscaled edit.
        return replace(self, changes=changed, ledger=self.ledger if factor == 1 else None)

    @contextmanager
    def applied(self, pipe: Any, scale: float = 1.0, force: bool = False) -> Iterator[Any]:
        """Applies the edit inside the block, and restores the pipeline's own tensors afterwards.

        Args:
            pipe: The pipeline that it was fitted to. Its denoiser and text encoders are changed.
            scale: Factor on the edit.
            force: Whether to skip the check of the base.

        Yields:
            The pipeline.

        Raises:
            InputError: The base differs, or lacks a tensor.
        """
        handle = self.apply(pipe, scale, force)
        try:
            yield pipe
        finally:
            handle.revert()

    def apply(self, pipe: Any, scale: float = 1.0, force: bool = False) -> "Applied":
        """Applies the edit, as `applied`, until `Applied.revert` is called on the result."""
        chosen = self.changes if scale == 1 else self.scaled(scale).changes
        with plain_modules(pipe):
            if not force:
                self.check_base(pipe)
            return _apply(pipe, chosen)

    def check_base(self, pipe: Any) -> None:
        """Checks that a pipeline is the one that the edit was fitted to; its VAE may differ.

        Raises:
            InputError: A component's weights differ, or a component is missing.
        """
        here = component_hashes(pipe)
        for name, digest in self.base_parts.items():
            if name != "vae" and here.get(name) != digest:
                if name in here:
                    check_not_quantized(name, getattr(pipe, name))
                got = here.get(name, "")[:12] or "none"
                raise InputError(
                    f"Expected the base that this edit was fitted to ({self.base_model}, {name} "
                    f"{digest[:12]}), got {name} {got}; load that model at the same "
                    "precision and without other edits or adapters, or force the edit."
                )

    def plot_diagnostics(
        self, ax: "Axes | None" = None, style: str = "light", most: int = 12
    ) -> "Figure":
        """Returns the diagnostics of the fit as a figure.

        See `editing.edit.views.plot_diagnostics`.

        Args:
            ax: Axes to draw on; new ones when None.
            style: "light" or "dark".
            most: Maximum number of neighbours; the figure states how many more there are.

        Raises:
            InputError: The edit has no diagnostics.
        """
        from editing.edit.views import plot_diagnostics

        return plot_diagnostics(self, ax, style, most)

    def save(self, path: str | Path) -> Path:
        """Writes the edit to one safetensors file atomically and returns its path.

        Raises:
            InputError: The file cannot be written.
        """
        path = Path(path)
        tensors: dict[str, torch.Tensor] = {}
        headers = []
        for number, change in enumerate(self.changes):
            header, parts = forms.pack(change)
            headers.append(header)
            tensors |= {f"change.{number}.{name}": t for name, t in parts.items()}
        entries = None
        if self.ledger is not None:
            entries, parts = ledgers.pack(self.ledger)
            tensors |= {f"ledger.{name}": t for name, t in parts.items()}
        described = {**self.to_dict(), "changes": headers, "ledger": entries}
        metadata = {KEY: json.dumps(described, ensure_ascii=False)}
        return save_tensors(tensors, path, metadata, "a path to write the edit to")

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads the edit, a model card and exports to the hub; see `editing.edit.hub.push`."""
        from editing.edit.hub import push

        return push(self, repo_id, **options)

    @classmethod
    def load(cls, path: str | Path) -> "Edit":
        """Returns the edit that `save` wrote.

        Raises:
            InputError: The file does not exist, or is not an edit that this version can read.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(
                f"Expected an edit's file, got {path}, which does not exist; check the path."
            )
        try:
            with safe_open(path, "pt") as file:
                text = (file.metadata() or {}).get(KEY)
                # Not a mapping: it has no values().
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if text is None:
                raise InputError(
                    f"Expected an edit that `visdiff edit` wrote, got {path}, a safetensors file "
                    "without its description; weights of other tools become an edit with `visdiff "
                    "edit import`."
                )
            values = json.loads(text)
            if values["schema"] != SCHEMA:
                raise InputError(
                    f"Expected an edit of schema {SCHEMA}, got {path} of schema "
                    f"{values['schema']}; install the version of visdiff that wrote it."
                )
            return cls._read(values, tensors)
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"Expected an edit that `visdiff edit` wrote, got {path}, which cannot be read "
                f"({type(error).__name__}: {error}); check the path."
            ) from error

    @classmethod
    def _read(cls, values: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> "Edit":
        changes = [
            forms.unpack(header, _select_prefix(tensors, f"change.{number}."))
            for number, header in enumerate(values["changes"])
        ]
        entries = values["ledger"]
        return cls(
            method=values["method"],
            requests=tuple(from_dict(r) for r in values["requests"]),
            config=values["config"],
            base_model=values["base"]["model"],
            base_hash=values["base"]["hash"],
            base_parts=values["base"]["parts"],
            changes=tuple(changes),
            ledger=None
            if entries is None
            else ledgers.unpack(entries, _select_prefix(tensors, "ledger.")),
            diagnostics=values["diagnostics"],
            seeds=tuple(values["seeds"]),
            versions=values["versions"],
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the description of the edit, without its tensors, as JSON values."""
        return {
            "schema": SCHEMA,
            "digest": self.digest,
            "method": self.method,
            "requests": [r.to_dict() for r in self.requests],
            "config": dict(self.config),
            "base": {
                "model": self.base_model,
                "hash": self.base_hash,
                "parts": dict(self.base_parts),
            },
            "tensors": len(self.tensors),
            "diagnostics": dict(self.diagnostics),
            "seeds": list(self.seeds),
            "versions": dict(self.versions),
        }


class Applied:
    """An edit that is applied to a pipeline until `revert` is called."""

    def __init__(self) -> None:
        self._tensors: list[tuple[torch.nn.Parameter, torch.Tensor]] = []
        self._parts: list[tuple[Any, str, Any]] = []

    def revert(self) -> None:
        """Restores the original tensors and tokenizers of the pipeline, bit for bit."""
        while self._tensors:
            holder, original = self._tensors.pop()
            # The pipeline may have been moved to another device or dtype meanwhile.
            holder.data = original.to(device=holder.device, dtype=holder.dtype)
        while self._parts:
            owner, name, original = self._parts.pop()
            setattr(owner, name, original)

    def swap(self, holder: torch.nn.Parameter, value: torch.Tensor) -> None:
        """Replaces a parameter's data until `revert`."""
        self._tensors.append((holder, holder.data))
        holder.data = value

    def swap_part(self, owner: Any, name: str, value: Any) -> None:
        """Replaces an attribute until `revert`."""
        self._parts.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)


def _apply(pipe: Any, changes: tuple[Delta, ...]) -> Applied:
    handle = Applied()
    try:
        for name in forms.tensors_of(changes):
            holder = parameter(pipe, name)
            base = holder.data.cpu()
            total = base.to(torch.float64)
            for change in changes:
                if name in change.names():
                    total = total + _check_shape(change.delta(name, base), base, name)
            handle.swap(holder, total.to(device=holder.device, dtype=holder.dtype))
        for change in changes:
            change.extend(pipe, handle)
    except BaseException:
        handle.revert()
        raise
    return handle


def _check_shape(delta: torch.Tensor, base: torch.Tensor, name: str) -> torch.Tensor:
    if delta.shape != base.shape:
        raise InputError(
            f"Expected {name} of shape {tuple(delta.shape)}, got {tuple(base.shape)}; apply it to "
            "the model that it was fitted to."
        )
    return delta


def _select_prefix(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in _PACKAGES}


__all__ = ["KEY", "SCHEMA", "Applied", "Edit", "weight_hash"]
