"""Custom Diffusion: keys and values of the cross-attention, and a new token, learn the subject.

Kumari et al. (CVPR 2023), arXiv:2212.04488. Several subjects are trained together, or merged
afterwards in closed form (`merge`, the paper's equation 4).
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch

from editing.edit import Edit
from editing.edit.deltas import Full, tensors_of
from editing.linear import constrained
from editing.personalize.layers import linear_layers
from editing.personalize.personalizer import Personalizer
from editing.personalize.settings import MINIATURE, PersonalizeConfig
from editing.personalize.subject import Subject
from editing.personalize.trained import Together, TokenRows, Trained, Whole
from editing.pipelines.substitute import place_of
from editing.pipelines.text import Phrase, encode
from editing.pipelines.weights import parameter
from editing.training import Group
from visdiff.errors import InputError

_LAYERS = {
    "kv": ("attn2.to_k", "attn2.to_v"),
    "qkvo": ("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"),
}


class _Attention(Whole):
    """Layers of the cross-attention; keys and values of a prompt's first token have no gradient.

    As in the authors' code. The first token is the same in every prompt, so that what it learns
    changes images of everything.

    Args:
        pipe: The pipeline.
        layers: Full names of the layers.
    """

    def __init__(self, pipe: Any, layers: Sequence[str]) -> None:
        names = {layer: f"{layer}.weight" for layer in layers}
        super().__init__(pipe, list(names.values()))
        self._of_text = [
            place_of(pipe, name).module
            for layer, name in names.items()
            if layer.endswith(_LAYERS["kv"])
        ]

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Detaches the first token while the context is open."""
        with ExitStack() as stack:
            for module in self._of_text:
                stack.callback(module.register_forward_hook(_detach_first).remove)
            yield


def _detach_first(module: torch.nn.Module, inputs: Any, out: torch.Tensor) -> torch.Tensor:
    del module, inputs
    return torch.cat([out[:, :1].detach(), out[:, 1:]], dim=1)


def _trained(pipe: Any, subjects: Sequence[Subject], config: PersonalizeConfig) -> Trained:
    layers = linear_layers(pipe, "unet", _LAYERS[config.projections])
    starts = {s.identifier: config.initializer or s.noun for s in subjects}
    return Together([_Attention(pipe, layers), TokenRows(pipe, starts, config.vectors)])


def _groups(config: PersonalizeConfig) -> tuple[Group, ...]:
    return (Group("tokens", config.token_lr or config.lr, weight_decay=0.0),)


CUSTOM_DIFFUSION = Personalizer(
    "custom-diffusion",
    PersonalizeConfig(
        steps=500, lr=2e-5, batch=2, prior_images=200, new_token=True, scaled_images=True
    ),
    frozenset({"projections", "token_lr", "vectors", "initializer", "scaled_images"}),
    _trained,
    _groups,
    variants={
        "miniature": {**MINIATURE, "lr": 5e-4, "token_lr": 1e-2, "scaled_images": False},
    },
)  # fmt: skip


def merge(edits: Sequence[Edit], pipe: Any, captions: Sequence[str]) -> Edit:
    """Merges edits of several subjects into one, in closed form.

    Every layer gets the weights nearest to the base on regularisation captions among those that
    give the tokens of each subject's phrase the keys and values of its own edit.

    Args:
        edits: Two or more edits of Custom Diffusion (keys and values) of one base.
        pipe: The base.
        captions: Regularisation captions, 200 in the paper; better more than the text width.

    Returns:
        An edit with full changes and all tokens.

    Raises:
        InputError: There are fewer than two edits, or no captions, an edit is of another base or
            changes other layers than keys and values, or two subjects share an identifier.
    """
    if len(edits) < 2 or not captions:
        raise InputError(
            f"Expected two or more edits and at least one caption, got {len(edits)} and "
            f"{len(captions)}; pass them."
        )
    for edit in edits:
        edit.check_base(pipe)
    names = list(dict.fromkeys(name for e in edits for name in tensors_of(e.changes)))
    strange = [n for n in names if not n.endswith((".attn2.to_k.weight", ".attn2.to_v.weight"))]
    if strange:
        raise InputError(
            f"Expected edits of keys and values of the cross-attention, got one that changes "
            f"{strange[0]}; use `editing.compose` for it."
        )
    named = [r.identifier for e in edits for r in e.requests]
    twice = next((name for i, name in enumerate(named) if name in named[:i]), None)
    if twice is not None:
        raise InputError(
            f"Expected subjects of different identifiers, got {twice!r} twice; train one of them "
            "with another identifier."
        )
    kept = torch.cat([e.states[1:] for e in encode(pipe, [Phrase("{}", c) for c in captions])])
    wanted = [(_subject_states(edit, pipe), edit) for edit in edits]
    changes = []
    for name in names:
        base = parameter(pipe, name).detach().cpu().double()
        states = torch.cat([s for s, _ in wanted])
        values = torch.cat([s.double() @ _weight(edit, name, base).T for s, edit in wanted])
        merged = constrained(base, kept, states, values)
        changes.append(Full(name, (merged - base).float()))
    tokens = [change for edit in edits for change in edit.changes if change.tokens()]
    return replace(
        edits[0],
        method="custom-diffusion",
        requests=tuple(r for e in edits for r in e.requests),
        config={"merged": [e.digest for e in edits], "captions": len(captions)},
        changes=(*changes, *tokens),
        diagnostics={},
    )


def _subject_states(edit: Edit, pipe: Any) -> torch.Tensor:
    """Returns the states of the words of "<olis> dog" and "a photo of <olis> dog"."""
    phrases = [
        Phrase(template, request.concept)
        for request in edit.requests
        for template in ("{}", "a photo of {}")
    ]
    with edit.applied(pipe, force=True):
        found = list(encode(pipe, phrases))
    # Not "a photo of": causal encoders give it the same states for every subject, and the system
    # would be singular.
    rows = [e.states[e.layout.first : e.layout.last + 1] for e in found]
    return torch.unique(torch.cat(rows), dim=0)


def _weight(edit: Edit, name: str, base: torch.Tensor) -> torch.Tensor:
    return base + sum(c.delta(name, base) for c in edit.changes if name in c.names())
