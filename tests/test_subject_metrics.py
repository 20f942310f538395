"""Measures of a personalised model: identities on arrays, masks, and encoders of random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from editing.metrics import dreambench
from editing.metrics.features import image_features
from editing.metrics.image_encoders import ImageFeatures
from editing.metrics.masks import ClipSegmenter, inverted, kept_pixels, masked
from editing.metrics.subject import (
    copy_detection,
    disentanglement,
    estimate,
    likeness,
    real_likeness,
    same_prompt_pairs,
    text_alignment,
)
from visdiff.errors import InputError, MissingBackendError
from visdiff.torchvision_compat import ensure_torchvision


def vectors(n: int, seed: int = 0, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, width))


def picture(seed: int, side: int = 48) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3))
    return Image.fromarray(pixels.astype(np.uint8))


# --- arrays


def test_the_likeness_of_a_subject_with_itself_is_1_and_its_length_does_not_matter() -> None:
    one = vectors(1)
    assert likeness(np.repeat(one, 5, axis=0) * 3, one) == pytest.approx(np.ones(5))
    assert disentanglement(one, one) == pytest.approx([0])
    assert text_alignment(vectors(4), 2 * vectors(4)) == pytest.approx(np.ones(4))


def test_likeness_is_the_mean_over_all_pairs() -> None:
    generated, real = vectors(6), vectors(4, 1)
    pairs = [float(g @ r / np.linalg.norm(g) / np.linalg.norm(r)) for g in generated for r in real]
    assert likeness(generated, real).mean() == pytest.approx(np.mean(pairs))


def test_real_likeness_leaves_out_each_image_itself() -> None:
    real = vectors(5)
    others = [likeness(real[i : i + 1], np.delete(real, i, axis=0))[0] for i in range(5)]
    assert real_likeness(real) == pytest.approx(np.mean(others))
    with pytest.raises(InputError, match="2 or more references"):
        real_likeness(real[:1])


def test_a_copied_reference_is_flagged_and_one_as_near_as_real_images_is_not() -> None:
    real = vectors(5)
    found = copy_detection(np.concatenate([real[3:4], vectors(1, 9)]), real)
    assert found.flags.tolist() == [True, False]
    assert found.nearest[0] == 3
    assert found.likeness[0] == pytest.approx(1)
    nearest_pair = max(likeness(real[i : i + 1], real[j : j + 1])[0] for i in range(5)
                       for j in range(i))  # fmt: skip
    assert found.threshold == pytest.approx(nearest_pair)


def test_a_reference_that_occurs_twice_does_not_hide_copies() -> None:
    real = vectors(4)
    assert copy_detection(real[:1], np.concatenate([real, real[:1]])).flags.tolist() == [True]
    with pytest.raises(InputError, match="different references"):
        copy_detection(real[:1], np.repeat(real[:1], 3, axis=0))


def test_pairs_of_a_prompt_are_all_of_that_prompt_and_no_others() -> None:
    pairs = same_prompt_pairs(["a", "b", "a", "a", "c"])
    assert pairs.tolist() == [[0, 2], [0, 3], [2, 3]]
    assert same_prompt_pairs(["a", "b"]).shape == (0, 2)


def test_every_prompt_counts_equally_and_the_interval_contains_the_mean() -> None:
    found = estimate([0, 0, 0, 1], ["a", "a", "a", "b"], np.random.default_rng(0))
    assert (found.value, found.n, found.clusters) == (0.5, 4, 2)
    assert found.low <= found.value <= found.high
    alone = estimate([1.0], ["a"], np.random.default_rng(0))
    assert np.isnan([alone.low, alone.high]).all()


def test_the_interval_covers_the_mean_of_correlated_images() -> None:
    rng, hits = np.random.default_rng(0), 0
    for _ in range(200):
        values = np.repeat(rng.normal(size=25), 4) + 0.1 * rng.normal(size=100)
        found = estimate(values, np.repeat(np.arange(25), 4).tolist(), rng, resamples=400)
        hits += found.low <= 0 <= found.high
    assert 0.88 <= hits / 200 <= 0.99


@pytest.mark.parametrize("bad", [np.zeros((2, 16)), np.full((1, 16), np.nan), np.zeros((0, 16))])
def test_vectors_without_direction_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(InputError, match="Expected"):
        likeness(bad, vectors(2))
    with pytest.raises(InputError, match="one width"):
        likeness(vectors(2, width=8), vectors(2))


# --- masks


def test_a_full_mask_keeps_an_image_and_both_parts_add_up_to_it() -> None:
    image, half = picture(0), Image.new("L", (48, 48))
    half.paste(255, (0, 0, 20, 48))
    full = Image.new("L", (48, 48), 255)
    assert np.array_equal(np.asarray(masked(image, full)), np.asarray(image))
    parts = [np.asarray(masked(image, m), int) for m in (half, inverted(half))]
    assert np.array_equal(parts[0] + parts[1], np.asarray(image))
    assert masked(image, half, "crop").size == (20, 48)
    filled = np.asarray(masked(image, half, "mean"))
    assert np.unique(filled[:, 20:].reshape(-1, 3), axis=0).shape == (1, 3)


def test_a_mask_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="48×48"):
        masked(picture(0), Image.new("L", (10, 10), 255))
    with pytest.raises(InputError, match="keeps none"):
        masked(picture(0), Image.new("L", (48, 48)))


def test_a_text_segments_an_image_with_clipseg(tmp_path: Path) -> None:
    ensure_torchvision()
    import tiny_pipelines
    from transformers import (
        CLIPSegConfig,
        CLIPSegForImageSegmentation,
        CLIPSegProcessor,
        ViTImageProcessor,
    )

    words = tiny_pipelines.tokenizer()
    small = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    config = CLIPSegConfig(
        text_config={**small, "num_hidden_layers": 2, "vocab_size": len(words),
                     "max_position_embeddings": words.model_max_length},
        vision_config={**small, "num_hidden_layers": 3, "image_size": 32, "patch_size": 8},
        projection_dim=16, extract_layers=[0, 1], reduce_dim=16,
        decoder_num_attention_heads=2, decoder_intermediate_size=32,
    )  # fmt: skip
    torch.manual_seed(0)
    CLIPSegForImageSegmentation(config).save_pretrained(tmp_path)
    size = {"height": 32, "width": 32}
    CLIPSegProcessor(ViTImageProcessor(size=size), words).save_pretrained(tmp_path)
    images = [Image.new("RGB", (40, 24), "red"), picture(1)]
    found = ClipSegmenter(tmp_path, 0.5)(images, "a dog")
    assert [m.size for m in found] == [i.size for i in images]
    everything = ClipSegmenter(tmp_path, 1e-6)(images, "a dog")
    assert all(kept_pixels(m).all() for m in everything)


# --- encoders


def test_dino_through_timm_and_dinov2_through_transformers_give_unit_vectors(
    tmp_path: Path,
) -> None:
    ensure_torchvision()
    import timm
    from timm.models import save_for_hf
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1, img_size=224)
    save_for_hf(model, str(tmp_path / "timm"), model_args={"depth": 1}, safe_serialization=True)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28)
    Dinov2Model(config).save_pretrained(tmp_path / "v2")
    BitImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}
                      ).save_pretrained(tmp_path / "v2")  # fmt: skip
    images = [picture(0), picture(1), picture(0)]
    for name in (f"timm:local-dir:{tmp_path / 'timm'}", f"transformers:{tmp_path / 'v2'}"):
        found = image_features(ImageFeatures(name), images)
        assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(3), abs=1e-5)
        assert found[0] == pytest.approx(found[2], abs=1e-6)
        assert likeness(found[:1], found[2:])[0] == pytest.approx(1)


def test_missing_weights_are_one_sentence() -> None:
    for name in ("dino", "dinov2"):
        with pytest.raises(MissingBackendError, match=f"image encoder {name}"):
            ImageFeatures(name).prepare(picture(0))
    with pytest.raises(InputError, match="timm:NAME"):
        ImageFeatures("resnet")


# --- published data


def test_the_renaming_table_has_the_papers_twelve_of_thirty_subjects() -> None:
    known = dreambench.subjects()
    assert len(known) == 30
    assert sum(n.kind == "living" for n in known.values()) == 9
    assert sum(n.vague != n.specific for n in known.values()) == 12
    assert known["bear_plushie"].specific == "bear plushie"
    real = dreambench.published()[0]
    assert (real.dino, real.clip_i) == (0.774, 0.885)
