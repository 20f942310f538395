"""``python -m visdiff.miniature.evaluate``: the accuracy of each bundled model and its target.

Measured on new renderings (a seed that training does not use), which need the art packages, and on
generated images. Every accuracy is a share of its number of cases.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from visdiff import miniature
from visdiff.files import explained, write_whole
from visdiff.miniature import world
from visdiff.miniature.generate import Drawing, load_pipeline, sample
from visdiff.miniature.world import Scene
from visdiff.torchvision_compat import ensure_torchvision

SUBJECTS = world.SUBJECTS + world.PROFESSIONS


@dataclass(frozen=True)
class Row:
    """One measured number.

    Attributes:
        what: Name of the measurement.
        value: The number, a share in [0, 1] unless ``what`` names a unit.
        bar: Target; None if the number is only reported.
        n: Number of cases.
        at_most: Whether the target is an upper bound.
    """

    what: str
    value: float
    bar: float | None
    n: int
    at_most: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without a target."""
        if self.bar is None:
            return None
        return self.value <= self.bar if self.at_most else self.value >= self.bar


class Recognizer:
    """The bundled CLIP and classifier, applied to (n, 64, 64, 3) uint8 images."""

    def __init__(self) -> None:
        ensure_torchvision()
        import open_clip
        import torch
        from transformers import AutoModelForImageClassification

        name = f"local-dir:{miniature.folder('clip')}"
        clip, _, _ = open_clip.create_model_and_transforms(name)
        self.clip: Any = clip.float().eval()
        self.tokenizer = open_clip.get_tokenizer(name)
        self.classifier = (
            AutoModelForImageClassification.from_pretrained(miniature.folder("classifier"))
            .to(torch.float32)
            .eval()
        )

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Returns CLIP image embeddings, (n, d), normalised."""
        return self._batched(images, lambda x: self.clip.encode_image(x, normalize=True))

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Returns CLIP text embeddings, (n, d), normalised."""
        import torch

        with torch.inference_mode():
            return self.clip.encode_text(self.tokenizer(list(texts)), normalize=True).numpy()

    def classify(self, images: np.ndarray) -> np.ndarray:
        """Returns the index into ``SUBJECTS`` of each image's predicted subject, (n,)."""
        return self._batched(images, lambda x: self.classifier(x).logits).argmax(1)

    def features(self, images: np.ndarray) -> np.ndarray:
        """Returns the classifier's pooled features, (n, 128)."""
        return self._batched(images, lambda x: self.classifier.resnet(x).pooler_output.flatten(1))

    @staticmethod
    def _batched(images: np.ndarray, function: Callable[[Any], Any]) -> np.ndarray:
        import torch

        from visdiff.miniature.train.clip import pixels

        parts = []
        with torch.inference_mode():
            for start in range(0, len(images), 128):
                batch = pixels(images[start : start + 128], torch.device("cpu"))
                parts.append(function(batch).float().numpy())
        return np.concatenate(parts)


def choose_option(
    recognizer: Recognizer, images: np.ndarray, options: Sequence[Sequence[str]]
) -> np.ndarray:
    """Returns for each image the index of its option with the largest CLIP similarity, (n,).

    Args:
        recognizer: The models.
        images: (n, 64, 64, 3) uint8.
        options: k texts per image.
    """
    texts = sorted({t for row in options for t in row})
    place = {t: i for i, t in enumerate(texts)}
    similarity = recognizer.embed(images) @ recognizer.embed_texts(texts).T
    return np.array(
        [similarity[i, [place[t] for t in row]].argmax() for i, row in enumerate(options)]
    )


def clip_rows(recognizer: Recognizer, scenes: Sequence[Scene], images: np.ndarray) -> list[Row]:
    """Measures CLIP on renderings: subjects, and each attribute in a full caption and alone."""
    single = np.array([not s.second for s in scenes])
    named = [[world.an(x) for x in SUBJECTS]] * int(single.sum())
    truth = [SUBJECTS.index(s.subject) for s in scenes if not s.second]
    hits = choose_option(recognizer, images[single], named) == truth
    rows = [Row("CLIP: subject among all, zero-shot", hits.mean(), 0.95, len(hits))]
    values = {
        "place": (tuple(world.PLACES), 0.98),
        "style": (world.STYLES, 0.95),
        "gender": (world.GENDERS, 0.95),
        "tone": (world.TONES, 0.80),
    }
    for attribute, (options, bar) in values.items():
        chosen = [i for i, s in enumerate(scenes) if getattr(s, attribute)]
        truth = [options.index(getattr(scenes[i], attribute)) for i in chosen]
        options_per_image = [
            [world.full_caption(replace(scenes[i], **{attribute: v})) for v in options]
            for i in chosen
        ]
        hits = choose_option(recognizer, images[chosen], options_per_image) == truth
        rows.append(Row(f"CLIP: {attribute}, in the full caption", hits.mean(), bar, len(hits)))
        alone = [[phrase_alone(attribute, v) for v in options]] * len(chosen)
        hits = choose_option(recognizer, images[chosen], alone) == truth
        rows.append(Row(f"CLIP: {attribute}, alone", hits.mean(), 0.80, len(hits)))
    return rows


def phrase_alone(attribute: str, value: str) -> str:
    """Returns an attribute by itself: "on the grass", "noto style", "a woman", "dark skin"."""
    if attribute == "place":
        return world.PLACES[value][0]
    if attribute == "style":
        return f"{value} style"
    return f"a {value}" if attribute == "gender" else f"{value} skin"


def captioner_rows(scenes: Sequence[Scene], images: np.ndarray, seed: int) -> list[Row]:
    """Measures the captioner on renderings: its captions and its yes/no answers."""
    captions = run_captioner(images, [None] * len(images))
    one = [i for i, s in enumerate(scenes) if not s.second]
    two = [i for i, s in enumerate(scenes) if s.second]
    subject = np.mean([mentions(captions[i], scenes[i].subject) for i in one])
    places = np.mean(
        [any(p in captions[i] for p in world.PLACES[s.place]) for i, s in enumerate(scenes)]
    )
    style = np.mean([mentions(c, s.style) for c, s in zip(captions, scenes, strict=True)])
    both = np.mean(
        [
            mentions(captions[i], scenes[i].subject) and mentions(captions[i], scenes[i].second)
            for i in two
        ]
    )
    rng = np.random.default_rng(seed)
    questions = [world.question(s, rng) for s in scenes]
    answers = run_captioner(images, [f"question: {q} answer:" for q, _ in questions])
    right = np.mean([a.strip() == t for a, (_, t) in zip(answers, questions, strict=True)])
    return [
        Row("captioner: subject named", float(subject), 0.95, len(one)),
        Row("captioner: place named", float(places), 0.95, len(scenes)),
        Row("captioner: style named", float(style), 0.90, len(scenes)),
        Row("captioner: both subjects of two", float(both), 0.80, len(two)),
        Row("captioner: yes/no questions", float(right), 0.92, len(questions)),
    ]


def mentions(caption: str, value: str) -> bool:
    """Returns whether a caption contains a value as whole words."""
    return f" {value} " in f" {caption.replace(',', ' ')} "


def run_captioner(images: np.ndarray, prompts: Sequence[str | None]) -> list[str]:
    """Captions the images, or answers the prompts that are not None."""
    import torch
    from PIL import Image
    from transformers import Blip2ForConditionalGeneration, Blip2Processor

    folder = miniature.folder("captioner")
    model: Any = Blip2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor: Any = Blip2Processor.from_pretrained(folder)
    texts: list[str] = []
    for start in range(0, len(images), 64):
        batch = [Image.fromarray(x) for x in images[start : start + 64]]
        inputs = processor(
            images=batch,
            text=[p or "" for p in prompts[start : start + 64]],
            padding=True,
            return_tensors="pt",
        )
        with torch.inference_mode():
            output = model.generate(**inputs, max_new_tokens=48, do_sample=False)
        output = output[:, inputs["input_ids"].shape[1] :]
        texts += processor.batch_decode(output, skip_special_tokens=True)
    return [t.strip() for t in texts]


def generate(
    prompts: Sequence[str], seed: int, steps: int = 25, scheduler: str = "DDIMScheduler"
) -> np.ndarray:
    """Draws one image a prompt with guidance 5; (n, 64, 64, 3) uint8."""
    pipeline = load_pipeline()
    images = []
    for start in range(0, len(prompts), 64):
        batch = [Drawing(p, seed + start + i) for i, p in enumerate(prompts[start : start + 64])]
        images += [np.asarray(i) for i in sample(pipeline, batch, steps, 5.0, scheduler)]
    return np.stack(images)


def generator_rows(recognizer: Recognizer, seeds: int, seed: int) -> list[Row]:
    """Measures how often the classifier and CLIP recognise the requested attributes."""
    requested = [s for s in SUBJECTS for _ in range(seeds)]
    start = time.perf_counter()
    images = generate([world.an(s) for s in requested], seed)
    elapsed = (time.perf_counter() - start) / len(images)
    predicted = recognizer.classify(images)
    right = predicted == np.array([SUBJECTS.index(s) for s in requested])
    rows = [Row("generator: requested subject classified", right.mean(), 0.90, len(requested))]
    rng = np.random.default_rng(seed)
    for attribute, bar in (("place", 0.90), ("style", 0.80), ("gender", 0.90), ("tone", 0.70)):
        options = {
            "place": tuple(world.PLACES),
            "style": world.STYLES,
            "gender": world.GENDERS,
            "tone": world.TONES,
        }[attribute]
        values = [options[i % len(options)] for i in range(16 * seeds)]
        prompts, options_per_image = [], []
        for value in values:
            person = attribute in ("gender", "tone")
            subject = str(rng.choice(world.PROFESSIONS if person else world.SUBJECTS))
            prompts.append(attribute_prompt(subject, attribute, value))
            options_per_image.append([attribute_prompt(subject, attribute, v) for v in options])
        truth = [options.index(v) for v in values]
        hits = choose_option(recognizer, generate(prompts, seed), options_per_image) == truth
        rows.append(
            Row(f"generator: requested {attribute} recognised", hits.mean(), bar, len(hits))
        )
    rows += prior_rows(recognizer, 4 * seeds, seed)
    rows.append(Row("generator: seconds for 16 images of 25 steps", 16 * elapsed, 10.0, 16, True))
    return rows


def kid_rows(
    recognizer: Recognizer, scenes: Sequence[Scene], images: np.ndarray, n: int
) -> list[Row]:
    """Measures KID (Bińkowski et al., ICLR 2018) to renderings, on the classifier's features.

    Args:
        recognizer: The models.
        scenes: At least 2n scenes; the full captions of the first n are the generator's prompts.
        images: Their renderings. The first n pass through the VAE; the next n are the reference.
        n: Images per set.
    """
    from torch import from_numpy
    from torch_fidelity.metric_kid import kid_features_to_metric

    real = from_numpy(recognizer.features(images[n : 2 * n]))
    rows = []
    for name, generated in (
        ("generations", generate([world.full_caption(s) for s in scenes[:n]], seed=0)),
        ("VAE reconstructions", reconstruct(images[:n])),
    ):
        kid = kid_features_to_metric(
            from_numpy(recognizer.features(generated)),
            real,
            kid_subsets=50,
            kid_subset_size=n // 2,
            rng_seed=0,
            verbose=False,
        )["kernel_inception_distance_mean"]
        rows.append(Row(f"generator: KID of {name}, × 1000", 1000 * kid, None, n))
    return rows


def reconstruct(images: np.ndarray) -> np.ndarray:
    """Encodes and decodes (n, 64, 64, 3) uint8 images with the VAE."""
    import torch
    from diffusers import AutoencoderKL

    from visdiff.miniature.train.clip import pixels

    vae: Any = AutoencoderKL.from_pretrained(miniature.folder("diffusion") / "vae").float().eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(images), 128):
            batch = pixels(images[start : start + 128], torch.device("cpu"))
            decoded = vae.decode(vae.encode(batch).latent_dist.mean).sample.float()
            parts.append(((decoded + 1) * 127.5).clamp(0, 255).round().byte().numpy())
    return np.concatenate(parts).transpose(0, 2, 3, 1)


def attribute_prompt(subject: str, attribute: str, value: str) -> str:
    """Returns a prompt for a subject with one attribute."""
    if attribute == "gender":
        return f"a {value} {subject}"
    if attribute == "tone":
        return f"{world.an(subject)} with {value} skin"
    if attribute == "place":
        return f"{world.an(subject)} {world.PLACES[value][0]}"
    return f"{world.an(subject)}, {value} style"


def prior_rows(recognizer: Recognizer, per_profession: int, seed: int) -> list[Row]:
    """Compares P(man) and the tones of "a {profession}" with the world's deliberate biases."""
    requested = [p for p in world.PROFESSIONS for _ in range(per_profession)]
    images = generate([world.an(p) for p in requested], seed)
    genders = [[f"a {g} {p}" for g in world.GENDERS] for p in requested]
    man = choose_option(recognizer, images, genders) == 0
    tones = [[f"{world.an(p)} with {t} skin" for t in world.TONES] for p in requested]
    tone = choose_option(recognizer, images, tones)
    shares = man.reshape(len(world.PROFESSIONS), -1).mean(1)
    error = np.abs(shares - np.array(list(world.P_MAN.values()))).mean()
    predicted = np.bincount(tone, minlength=len(world.TONES)) / len(tone)
    variation = 0.5 * np.abs(predicted - np.array(world.TONE_PRIOR)).sum()
    return [
        Row("generator: P(man), mean error over 16", float(error), 0.10, len(requested), True),
        Row("generator: tones, distance to prior", float(variation), 0.15, len(requested), True),
    ]


def evaluate(art: Path, n: int, seeds: int, seed: int) -> list[Row]:
    """Runs all measurements, with ``n`` renderings and ``seeds`` generated images per subject."""
    from visdiff.miniature.render import Art

    rng = np.random.default_rng([seed, 2026])
    icons = Art.load(art)
    scenes = [world.sample_scene(rng) for _ in range(n)]
    images = np.stack([icons.render(s, rng) for s in scenes])
    recognizer = Recognizer()
    rows = clip_rows(recognizer, scenes, images) + captioner_rows(scenes, images, seed)
    single = np.array([not s.second for s in scenes])
    truth = [SUBJECTS.index(s.subject) for s in scenes if not s.second]
    hits = recognizer.classify(images[single]) == truth
    rows.append(Row("classifier: subject top-1", float(hits.mean()), 0.98, len(hits)))
    rows += generator_rows(recognizer, seeds, seed)
    rows += kid_rows(recognizer, scenes, images, min(n // 2, 64 * seeds))
    weights = Path(miniature.__file__).parent / "weights"
    size = sum(f.stat().st_size for f in weights.rglob("*.safetensors")) / 1e6
    return [*rows, Row("all weights, MB", size, 40.0, len(miniature.MODELS), True)]


def table(rows: Sequence[Row]) -> str:
    """Formats the rows as a Markdown table."""
    lines = ["| what | measured | target | n | |", "|---|---|---|---|---|"]
    for row in rows:
        bar = "–" if row.bar is None else f"{'≤' if row.at_most else '≥'} {row.bar:g}"
        met = {True: "✓", False: "below" if not row.at_most else "above", None: ""}[row.met]
        lines.append(f"| {row.what} | {row.value:.3f} | {bar} | {row.n:,} | {met} |")
    return "\n".join(lines)


def main() -> None:
    """Prints the table; ``--json FILE`` also writes the numbers."""
    import sys

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--art", type=Path, required=True, help="folder with node_modules")
    parser.add_argument("--n", type=int, default=2000, help="number of renderings")
    parser.add_argument("--seeds", type=int, default=8, help="generated images per subject")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = evaluate(arguments.art, arguments.n, arguments.seeds, arguments.seed)
    sys.stdout.write(table(rows) + "\n")
    if arguments.json:
        values = [asdict(r) | {"value": round(float(r.value), 4)} for r in rows]
        with explained("a file that can be written", arguments.json):
            write_whole(arguments.json, json.dumps(values, indent=1).encode())


if __name__ == "__main__":
    main()
