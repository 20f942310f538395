"""MiniDiffBench: a benchmark like VisDiffBench in the miniature's world, where the truth is known.

150 pairs with 100 images per set, and 200 null pairs, all rendered from the art packages:

- **easy**: another place or another subject in every image;
- **medium**: another style (a filter or none), another profession, or another companion of the
  subject, in every image;
- **hard**: a fine attribute (gender, skin tone, art set, companion), in 75 % of A against 25 % of
  B;
- **null**: both sets from one distribution, which differs between pairs.

All other attributes follow the world's priors in both sets.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from visdiff.bench.pairs import NULL, Benchmark, Pair
from visdiff.errors import InputError
from visdiff.files import explained, write_whole
from visdiff.miniature import world
from visdiff.miniature.render import Art
from visdiff.progress import is_hidden

NAME = "MiniDiffBench"
#: Split → attributes, used in turn, and the fraction of A with its own value.
SPLITS: Mapping[str, tuple[tuple[str, ...], float]] = {
    "easy": (("place", "subject"), 1.0),
    "medium": (("style", "profession", "second"), 1.0),
    "hard": (("gender", "tone", "art", "second"), 0.75),
}
_PAIRS, _NULL_PAIRS, _SIZE = 50, 200, 100
_INDEX = "minidiffbench.jsonl"

_VALUES: Mapping[str, tuple[str, ...]] = {
    "place": tuple(world.PLACES),
    "subject": world.SUBJECTS,
    "style": world.STYLES,
    "profession": world.PROFESSIONS,
    "second": world.SUBJECTS,
    "gender": world.GENDERS,
    "tone": world.TONES,
    "art": world.ART_SETS,
}


@dataclass(frozen=True)
class Plan:
    """The planted difference of a pair.

    Attributes:
        id: The pair's name, such as "hard/03".
        split: "easy", "medium", "hard" or "null".
        attribute: The attribute that differs, a key of the world's attributes or "profession"; ""
            in null pairs.
        values: Its value in A and in B; the same text twice in null pairs.
        share: Fraction of A's images with A's value, and of B's with B's; the others have the other
            value.
        fixed: Attributes with the same value in all images of both sets.
    """

    id: str
    split: str
    attribute: str
    values: tuple[str, str]
    share: float
    fixed: Mapping[str, str]


def plans(seed: int, pairs: int = _PAIRS, null_pairs: int = _NULL_PAIRS) -> Iterator[Plan]:
    """Yields the plans of all pairs; a pair does not depend on the number of pairs."""
    for number, (split, (attributes, share)) in enumerate(SPLITS.items()):
        for i in range(pairs):
            rng = np.random.default_rng([seed, number, i])
            attribute = attributes[i % len(attributes)]
            a, b = (str(v) for v in rng.choice(_VALUES[attribute], 2, replace=False))
            yield Plan(f"{split}/{i:02d}", split, attribute, (a, b), share, {})
    for i in range(null_pairs):
        rng = np.random.default_rng([seed, len(SPLITS), i])
        constant = ("", "place", "style", "profession", "subject")[i % 5]
        fixed, text = {}, "anything"
        if constant:
            field = "subject" if constant == "profession" else constant
            fixed[field] = str(rng.choice(_VALUES[constant]))
            text = _words(constant, fixed[field])
        yield Plan(f"null/{i:03d}", NULL, "", (text, text), 1.0, fixed)


def scenes(plan: Plan, side: int, size: int, rng: np.random.Generator) -> list[world.Scene]:
    """Samples the scenes of one set of a pair.

    Args:
        plan: The pair.
        side: 0 for A, 1 for B.
        size: Number of images; exactly round(share · size) of them have the set's own value.
        rng: Generator for the scenes.
    """
    if not plan.attribute:
        return [world.sample_scene(rng, **plan.fixed) for _ in range(size)]
    own = round(plan.share * size)
    values = [plan.values[side]] * own + [plan.values[1 - side]] * (size - own)
    return [_scene(plan.attribute, values[i], plan.values, rng) for i in rng.permutation(size)]


def _scene(
    attribute: str, value: str, both: tuple[str, str], rng: np.random.Generator
) -> world.Scene:
    if attribute == "second":
        # The main subject must be neither of the two planted companions.
        while (scene := world.sample_scene(rng, second=value)).subject in both:
            pass
        return scene
    if attribute in ("gender", "tone"):
        return world.sample_scene(rng, **{attribute: value})
    if attribute == "art":
        return world.sample_scene(rng, style=value)
    return world.sample_scene(rng, **{_field(attribute): value})


def _field(attribute: str) -> str:
    return {"profession": "subject", "art": "style"}.get(attribute, attribute)


def _words(attribute: str, value: str) -> str:
    """Returns the description of a set, in the words of the judge `world`."""
    if attribute == "place":
        return world.PLACES[value][0]
    if attribute in ("style", "art"):
        return f"{value} style"
    if attribute == "tone":
        return f"{value} skin"
    return f"a {value}" if attribute == "gender" else world.an(value)


def render(
    folder: Path,
    art: Path,
    *,
    seed: int = 0,
    pairs: int = _PAIRS,
    null_pairs: int = _NULL_PAIRS,
    size: int = _SIZE,
    progress: bool = True,
) -> Benchmark:
    """Renders the benchmark into a folder, resuming an interrupted rendering, and loads it.

    Args:
        folder: Output folder for ``SPLIT/NN/A/000.png`` … and an index with the truth.
        art: Folder with ``node_modules`` of the art packages.
        seed: Seed of all random numbers.
        pairs: Number of pairs in each of the three splits.
        null_pairs: Number of pairs without a difference.
        size: Number of images per set.
        progress: Whether to show progress on stderr.

    Raises:
        InputError: The folder has renderings with another seed or size, or the art packages are
            missing.
    """
    index = folder / _INDEX
    header = {"benchmark": NAME, "seed": seed, "size": size}
    lines = index.read_text("utf-8").splitlines() if index.is_file() else [json.dumps(header)]
    if json.loads(lines[0]) != header:
        raise InputError(
            f"Expected renderings with {header} in {folder}, got {lines[0]}; choose another folder."
        )
    known = {json.loads(line)["id"] for line in lines[1:]}
    todo = [p for p in plans(seed, pairs, null_pairs) if p.id not in known]
    if todo:
        icons = Art.load(art)
        for plan in tqdm(todo, "rendering", unit="pair", disable=is_hidden(progress)):
            _render_pair(plan, folder, icons, seed, size)
            a, b = (_words(plan.attribute, v) if plan.attribute else v for v in plan.values)
            entry = {"id": plan.id, "split": plan.split, "attribute": plan.attribute}
            lines.append(json.dumps({**entry, "a": a, "b": b}))
            with explained("a folder for renderings that can be written to", folder):
                write_whole(index, ("\n".join(lines) + "\n").encode())
    requested = {p.id for p in plans(seed, pairs, null_pairs)}
    rendered = load(folder)
    return replace(rendered, pairs=tuple(p for p in rendered.pairs if p.id in requested))


def shows(plan: Plan, side: int, seed: int, size: int = _SIZE) -> np.ndarray:
    """Returns which images of a rendered set have set A's attribute.

    Args:
        plan: A pair with a difference.
        side: 0 for A, 1 for B.
        seed: Seed of the rendering.
        size: Number of images per set in the rendering.

    Returns:
        (size,) bool, in the order of the files.

    Raises:
        InputError: The pair has no difference.
    """
    if not plan.attribute:
        raise InputError(f"Expected a pair with a difference, got the null pair {plan.id}.")
    sampled = scenes(plan, side, size, _generator(plan, side, seed))
    return np.array([getattr(s, _field(plan.attribute)) == plan.values[0] for s in sampled])


def _generator(plan: Plan, side: int, seed: int) -> np.random.Generator:
    """Returns the generator of one set, used first for all scenes and then for the rendering."""
    return np.random.default_rng([seed, *plan.id.encode(), side])


def _render_pair(plan: Plan, folder: Path, icons: Art, seed: int, size: int) -> None:
    for side, name in enumerate("AB"):
        rng = _generator(plan, side, seed)
        target = folder / plan.id / name
        for i, scene in enumerate(scenes(plan, side, size, rng)):
            buffer = BytesIO()
            Image.fromarray(icons.render(scene, rng)).save(buffer, "PNG")
            with explained("a folder for renderings that can be written to", folder):
                write_whole(target / f"{i:03d}.png", buffer.getvalue())


def load(folder: Path) -> Benchmark:
    """Loads a benchmark that `render` wrote.

    Raises:
        InputError: The folder has no index.
    """
    index = folder / _INDEX
    if not index.is_file():
        raise InputError(
            f"Expected {_INDEX} in {folder}, got none; render it with "
            f"`visdiff bench render {folder} --art ART`."
        )
    header, *entries = (json.loads(line) for line in index.read_text("utf-8").splitlines())
    return Benchmark(NAME, tuple(_pair(folder, e, header["size"]) for e in entries))


def _pair(folder: Path, entry: Mapping[str, str], size: int) -> Pair:
    files = {
        side: [folder / entry["id"] / side / f"{i:03d}.png" for i in range(size)] for side in "AB"
    }
    missing = [f for side in "AB" for f in files[side] if not f.is_file()]
    existing = {side: tuple(f.resolve() for f in files[side] if f.is_file()) for side in "AB"}
    return Pair(
        id=entry["id"],
        split=entry["split"],
        a=entry["a"],
        b=entry["b"],
        difference=entry["attribute"],
        images_a=existing["A"],
        images_b=existing["B"],
        missing=tuple(str(f.relative_to(folder)) for f in missing),
    )
