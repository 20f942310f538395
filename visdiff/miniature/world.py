"""The miniature's world: the attributes of a scene, and the sentences that describe it.

A :class:`Scene` holds the true attributes of one image. :func:`sample_scene` samples one, with
deliberate biases, and :func:`caption` describes it. :mod:`visdiff.miniature.render` turns a scene
into pixels; it needs the art packages, which only training and benchmark rendering require.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

#: Subject name → icon name in the art sets, where the two differ beyond spaces and hyphens.
_ICON_NAMES = {
    "fish": "tropical-fish",
    "car": "automobile",
    "golf flag": "flag-in-hole",
    "ladybug": "lady-beetle",
    "cheese": "cheese-wedge",
    "corn": "ear-of-corn",
    "apple": "red-apple",
    "chili pepper": "hot-pepper",
    "donut": "doughnut",
    "mug of beer": "beer-mug",
    "pine tree": "evergreen-tree",
    "temple": "classical-building",
    "piano": "musical-keyboard",
    "bee": "honeybee",
    "whale": "spouting-whale",
    "dinosaur": "t-rex",
    "burger": "hamburger",
    "microphone": "studio-microphone",
    "flower": "hibiscus",
    "tomb": "headstone",
    "clock": "alarm-clock",
}

#: Subjects by kind. The first ten stand for Imagenette's classes.
SUBJECTS_BY_KIND: Mapping[str, tuple[str, ...]] = {
    "imagenette": (
        "church", "fuel pump", "parachute", "fish", "dog", "postal horn", "delivery truck",
        "videocassette", "carpentry saw", "golf flag",
    ),
    "unsafe": ("bomb", "dagger", "skull", "syringe"),
    "animal": (
        "cat", "penguin", "elephant", "frog", "owl", "turtle", "octopus", "butterfly", "snail",
        "bee", "whale", "crab", "rabbit", "zebra", "lobster", "flamingo", "parrot", "ladybug",
        "hedgehog", "dinosaur", "pig", "giraffe", "squid", "duck",
    ),
    "food": (
        "apple", "banana", "pizza", "burger", "donut", "carrot", "strawberry", "watermelon",
        "cheese", "corn", "pineapple", "mushroom", "avocado", "broccoli", "cupcake", "lemon",
        "grapes", "croissant",
    ),
    "vehicle": (
        "rocket", "sailboat", "bicycle", "bus", "tractor", "helicopter", "fire engine", "car",
        "motorcycle", "airplane", "locomotive", "ambulance",
    ),
    "building": ("house", "castle", "temple", "tent", "hospital", "factory"),
    "plant": ("cactus", "sunflower", "tulip", "palm tree", "pine tree", "rose"),
    "instrument": ("guitar", "violin", "drum", "trumpet", "saxophone", "accordion"),
    "object": (
        "hammer", "umbrella", "key", "balloon", "camera", "crown", "light bulb", "soccer ball",
        "teapot", "scissors", "backpack", "clock", "robot", "anchor",
    ),
}  # fmt: skip

SUBJECTS: tuple[str, ...] = tuple(s for kind in SUBJECTS_BY_KIND.values() for s in kind)

#: Profession → probability of a man when the caption does not state the gender. The bias is
#: deliberate (see the model card), so that debiasing has something to correct.
P_MAN: Mapping[str, float] = {
    "firefighter": 0.95, "mechanic": 0.93, "pilot": 0.90, "construction worker": 0.90,
    "farmer": 0.85, "astronaut": 0.80, "judge": 0.75, "police officer": 0.70,
    "technologist": 0.65, "scientist": 0.60, "detective": 0.50, "cook": 0.40,
    "singer": 0.30, "artist": 0.25, "teacher": 0.15, "health worker": 0.05,
}  # fmt: skip

PROFESSIONS: tuple[str, ...] = tuple(P_MAN)
GENDERS: tuple[str, ...] = ("man", "woman")

#: Skin tones, light to dark, and their prior when the caption does not state the tone.
TONES: tuple[str, ...] = ("light", "medium-light", "medium", "medium-dark", "dark")
TONE_PRIOR: tuple[float, ...] = (0.45, 0.25, 0.15, 0.10, 0.05)

#: Art sets represent artists, and so do the filters, which are applied to the finished scene.
ART_SETS: tuple[str, ...] = ("noto", "twemoji", "fluent")
FILTERS: tuple[str, ...] = ("pixel art", "pencil sketch", "sepia photo", "pop art", "blueprint")
STYLES: tuple[str, ...] = ART_SETS + FILTERS
#: Filters remove colour and detail, so each is rarer than an art set.
STYLE_PRIOR: tuple[float, ...] = (0.21, 0.21, 0.21, 0.074, 0.074, 0.074, 0.074, 0.074)

#: Place → its phrases in captions.
PLACES: Mapping[str, tuple[str, ...]] = {
    "white background": ("on a white background", "on white"),
    "grass": ("on the grass", "on green grass"),
    "sand": ("on the sand", "on yellow sand"),
    "night sky": ("under the night sky", "at night"),
    "ocean": ("on the ocean", "at sea"),
    "brick wall": ("in front of a brick wall", "against a brick wall"),
    "sunset": ("at sunset", "in front of the sunset"),
    "snow": ("in the snow", "on the snow"),
}

Attribute = Literal["subject", "second", "gender", "tone", "style", "place"]


@dataclass(frozen=True)
class Scene:
    """The true attributes of one image.

    Attributes:
        subject: One of SUBJECTS or PROFESSIONS.
        style: One of STYLES.
        place: One of PLACES.
        art: The art set of the icons; equals ``style`` unless the style is a filter.
        gender: "man" or "woman" for professions, else "".
        tone: One of TONES for professions, else "".
        second: A second subject next to the first, or "".
    """

    subject: str
    style: str
    place: str
    art: str
    gender: str = ""
    tone: str = ""
    second: str = ""

    @property
    def is_person(self) -> bool:
        """Whether the subject is a profession, which has a gender and a tone."""
        return self.subject in P_MAN


def icon_name(subject: str, gender: str = "", tone: str = "") -> str:
    """Returns the name of an icon in the art packages, e.g. ``man-cook-dark-skin-tone``."""
    base = _ICON_NAMES.get(subject, subject.replace(" ", "-"))
    if subject in P_MAN:
        return f"{gender}-{base}-{tone}-skin-tone"
    return base


def sample_scene(rng: np.random.Generator, **fixed: str) -> Scene:
    """Samples a scene; attributes not in ``fixed`` follow the world's priors.

    Args:
        rng: Random generator.
        **fixed: Values of :class:`Scene`'s fields. ``second=""`` excludes a second subject.

    Raises:
        ValueError: A field or value does not exist in the world.
    """
    _validate(fixed)
    subject = fixed.get("subject")
    if subject is None:
        # Professions are fewer than the other subjects but have two more attributes.
        persons = "gender" in fixed or "tone" in fixed or rng.random() < 0.3
        subject = str(rng.choice(PROFESSIONS if persons else SUBJECTS))
    style = fixed.get("style") or str(rng.choice(STYLES, p=STYLE_PRIOR))
    art = fixed.get("art") or (style if style in ART_SETS else str(rng.choice(ART_SETS)))
    place = fixed.get("place") or str(rng.choice(list(PLACES)))
    second = fixed.get("second")
    if second is None:
        second = str(rng.choice(SUBJECTS)) if rng.random() < 0.15 else ""
        second = "" if second == subject else second
    scene = Scene(subject=subject, style=style, place=place, art=art, second=second)
    if scene.is_person:
        gender = fixed.get("gender") or ("man" if rng.random() < P_MAN[subject] else "woman")
        tone = fixed.get("tone") or str(rng.choice(TONES, p=TONE_PRIOR))
        scene = replace(scene, gender=gender, tone=tone)
    return scene


def vary(scene: Scene, rng: np.random.Generator) -> Scene:
    """Returns the scene with one attribute changed to another value, chosen at random."""
    options: list[str] = ["subject", "style", "place"]
    if scene.is_person:
        options += ["gender", "tone", "tone", "gender"]
    if scene.second:
        options += ["second"]
    attribute = str(rng.choice(options))
    if attribute == "style":
        style = _choose_other(STYLES, scene.style, rng)
        art = style if style in ART_SETS else scene.art
        return replace(scene, style=style, art=art)
    if attribute == "gender":
        return replace(scene, gender=_choose_other(GENDERS, scene.gender, rng))
    if attribute == "tone":
        return replace(scene, tone=_choose_other(TONES, scene.tone, rng))
    if attribute == "place":
        return replace(scene, place=_choose_other(tuple(PLACES), scene.place, rng))
    if attribute == "second":
        return replace(scene, second=_choose_other(SUBJECTS, scene.second, rng))
    return replace(
        scene,
        subject=_choose_other(PROFESSIONS if scene.is_person else SUBJECTS, scene.subject, rng),
    )


def an(noun: str) -> str:
    """Returns the noun with its article: "an owl", "a dog", "scissors"."""
    if noun in ("scissors", "grapes"):
        return noun
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def subject_phrase(
    scene: Scene, rng: np.random.Generator, *, with_gender: bool, with_tone: bool
) -> str:
    """Returns a random phrase for the subject; for persons, with gender and tone on request."""
    noun = scene.subject
    if not scene.is_person:
        return an(noun)
    if with_gender and with_tone:
        return str(rng.choice([
            f"a {scene.gender} {noun} with {scene.tone} skin",
            f"a {noun}, a {scene.gender} with {scene.tone} skin",
        ]))  # fmt: skip
    if with_gender:
        return str(rng.choice([f"a {scene.gender} {noun}", f"{an(noun)}, a {scene.gender}"]))
    if with_tone:
        return f"{an(noun)} with {scene.tone} skin"
    return an(noun)


def style_phrase(core: str, style: str, rng: np.random.Generator) -> str:
    """Adds the style to a phrase, in a random form."""
    if style in ART_SETS:
        named = f"a {style} drawing of {core}"
    else:
        named = (
            f"{style} of {core}" if style in ("pop art", "pixel art") else f"a {style} of {core}"
        )
    return str(rng.choice([named, f"{core} in the style of {style}", f"{core}, {style} style"]))


def caption(
    scene: Scene,
    rng: np.random.Generator,
    *,
    p_gender: float = 0.5,
    p_tone: float = 0.35,
    p_place: float = 0.75,
    p_style: float = 0.4,
    p_second: float = 0.9,
) -> tuple[str, frozenset[Attribute]]:
    """Describes a random selection of a scene's attributes.

    Args:
        scene: The scene.
        rng: Random generator.
        p_gender: Probability that the gender is stated.
        p_tone: Probability that the skin tone is stated.
        p_place: Probability that the place is stated.
        p_style: Probability that the style is stated.
        p_second: Probability that the second subject is stated.

    Returns:
        The sentence and the attributes that it states.
    """
    stated: set[Attribute] = {"subject"}
    if scene.is_person:
        stated |= {"gender"} if rng.random() < p_gender else set()
        stated |= {"tone"} if rng.random() < p_tone else set()
    core = subject_phrase(scene, rng, with_gender="gender" in stated, with_tone="tone" in stated)
    if scene.second and rng.random() < p_second:
        stated.add("second")
        core = f"{core} {rng.choice(['next to', 'and'])} {an(scene.second)}"
    if rng.random() < p_place:
        stated.add("place")
        core = f"{core} {rng.choice(PLACES[scene.place])}"
    if rng.random() < p_style:
        stated.add("style")
        core = style_phrase(core, scene.style, rng)
    elif rng.random() < 0.15:
        core = f"a picture of {core}"
    return core, frozenset(stated)


def full_caption(scene: Scene) -> str:
    """Returns the sentence that states all attributes, which the captioner learns to write."""
    core = an(scene.subject)
    if scene.is_person:
        core = f"a {scene.gender} {scene.subject} with {scene.tone} skin"
    if scene.second:
        core += f" next to {an(scene.second)}"
    return f"{core} {PLACES[scene.place][0]}, {scene.style} style"


def bare_phrases(scene: Scene) -> list[tuple[str, Attribute]]:
    """Returns each attribute by itself: "on the grass", "a woman", "dark skin", "noto style"."""
    named: dict[Attribute, Sequence[str]] = {
        "subject": [an(scene.subject)],
        "place": PLACES[scene.place],
        "style": [f"{scene.style} style", scene.style],
    }
    if scene.is_person:
        # Listed twice, since the other attributes have two phrases.
        named["gender"] = [f"a {scene.gender}"] * 2
        named["tone"] = [f"{scene.tone} skin", f"a person with {scene.tone} skin"]
    if scene.second:
        named["second"] = [an(scene.second)]
    return [(text, attribute) for attribute, texts in named.items() for text in texts]


def question(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """Returns a yes/no question about one attribute; both answers have equal probability.

    Returns:
        A question such as "does this image contain a dog?" and "yes" or "no".
    """
    yes = bool(rng.random() < 0.5)
    options = ["subject", "place", "style"] + (["gender", "tone"] if scene.is_person else [])
    attribute = str(rng.choice(options))
    if attribute == "subject":
        group = PROFESSIONS if scene.is_person and rng.random() < 0.7 else SUBJECTS
        others = [s for s in group if s not in (scene.subject, scene.second)]
        phrase = an(scene.subject if yes else str(rng.choice(others)))
    elif attribute == "place":
        value = scene.place if yes else _choose_other(tuple(PLACES), scene.place, rng)
        phrase = f"{rng.choice(['something', an(scene.subject)])} {rng.choice(PLACES[value])}"
    elif attribute == "style":
        value = scene.style if yes else _choose_other(STYLES, scene.style, rng)
        phrase = f"{value} style"
    elif attribute == "gender":
        value = scene.gender if yes else _choose_other(GENDERS, scene.gender, rng)
        phrase = str(rng.choice([f"a {value}", f"a {value} {scene.subject}"]))
    else:
        value = scene.tone if yes else _choose_other(TONES, scene.tone, rng)
        phrase = f"a person with {value} skin"
    return f"does this image contain {phrase}?", "yes" if yes else "no"


def _choose_other(values: tuple[str, ...], excluded: str, rng: np.random.Generator) -> str:
    return str(rng.choice([v for v in values if v != excluded]))


def _validate(fixed: Mapping[str, str]) -> None:
    allowed: dict[str, tuple[str, ...]] = {
        "subject": SUBJECTS + PROFESSIONS,
        "second": (*SUBJECTS, ""),
        "style": STYLES,
        "art": ART_SETS,
        "place": tuple(PLACES),
        "gender": GENDERS,
        "tone": TONES,
    }
    for name, value in fixed.items():
        if name not in allowed:
            raise ValueError(
                f"Expected an attribute of {', '.join(allowed)}, got {name!r}; correct its name."
            )
        if value not in allowed[name]:
            raise ValueError(
                f"Expected {name} to be one of {allowed[name]}, got {value!r}; use one of these."
            )
