"""The contract of the encoder, on a real open_clip model with tiny random weights."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny import CONTEXT, folder_of_pictures, pictures, save_open_clip

from visdiff.config import Config, preset_names
from visdiff.config.rankers import ClipConfig
from visdiff.encoders import hub
from visdiff.encoders.open_clip import REPOSITORIES, OpenClipEncoder
from visdiff.engine import Runtime, apply
from visdiff.errors import InputError, MissingBackendError
from visdiff.imageset import ImageSet
from visdiff.torchvision_compat import ensure_torchvision


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_open_clip(tmp_path_factory.mktemp("weights") / "clip")


@pytest.fixture(scope="module")
def encoder(folder: Path) -> OpenClipEncoder:
    return OpenClipEncoder(f"local-dir:{folder}", None, "cpu")


def embed(encoder: OpenClipEncoder, images: ImageSet, batch_size: int) -> np.ndarray:
    applied = apply(encoder, images, Runtime(), batch_size=batch_size, desc="")
    assert applied.failures == {}
    return np.stack(applied.values)


def test_image_vectors_are_unit_vectors_and_independent_of_the_batch(
    encoder: OpenClipEncoder,
) -> None:
    images = ImageSet.open(pictures(9))
    one, three, eight = (embed(encoder, images, size) for size in (1, 3, 8))
    assert one.dtype == np.float32
    assert one.shape == (9, 16)
    np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(one, three, atol=1e-6)
    np.testing.assert_allclose(one, eight, atol=1e-6)
    assert len(np.unique(one.round(5), axis=0)) == 9


def test_text_vectors_are_unit_vectors_and_independent_of_the_batch(
    encoder: OpenClipEncoder,
) -> None:
    texts = [f"a {'x' * (i % 5)}dog {i}" for i in range(70)]
    together = encoder.encode_texts(texts)
    assert together.shape == (70, 16)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    alone = np.concatenate([encoder.encode_texts([text]) for text in texts[:5]])
    np.testing.assert_allclose(together[:5], alone, atol=1e-6)
    assert encoder.encode_texts([]).shape == (0, 16)


def test_texts_longer_than_the_context_raise(encoder: OpenClipEncoder) -> None:
    assert encoder.context_length == CONTEXT
    fits = "x" * (CONTEXT - 2)  # one token per letter, plus the start and end tokens
    assert encoder.encode_texts([fits]).shape == (1, 16)
    with pytest.raises(InputError, match=f"at most {CONTEXT} tokens.*got {CONTEXT + 1}.*'{fits}x'"):
        encoder.encode_texts(["short", fits + "x"])


def test_tokens_of_open_clips_own_tokenizer_are_counted() -> None:
    import open_clip

    from visdiff.encoders.open_clip import _token_count

    tokenizer = open_clip.SimpleTokenizer()
    for words in (1, 75, 76, 100):
        text = " ".join(["dog"] * words)
        assert _token_count(tokenizer, text) == words + 2
        assert int((tokenizer([text]) != 0).sum()) == min(words + 2, 77)


def test_identity_is_the_content_of_the_folder(folder: Path, tmp_path: Path) -> None:
    here = OpenClipEncoder(str(folder), None, "cpu").identity
    assert here == OpenClipEncoder(f"local-dir:{folder}", "ignored", "auto").identity
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in folder.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    assert OpenClipEncoder(str(moved), None).identity == here
    other = save_open_clip(tmp_path / "other", seed=1)
    assert OpenClipEncoder(str(other), None).identity != here


def test_identity_of_a_tag_has_tag_and_library_version() -> None:
    identity = OpenClipEncoder("ViT-B-32", "laion2b_s34b_b79k").identity
    assert identity["pretrained"] == "laion2b_s34b_b79k"
    assert identity["open_clip"]
    assert identity != OpenClipEncoder("ViT-B-32", "openai").identity


def test_identity_of_a_hub_model_is_the_commit_that_is_loaded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingBackendError, match="hf-hub:someone/clip"):
        _ = OpenClipEncoder("hf-hub:someone/clip", None, "cpu").identity
    repository = tmp_path / "models--someone--clip"
    (repository / "refs").mkdir(parents=True)
    found = []
    for commit in ("abc", "def"):
        shutil.copytree(folder, repository / "snapshots" / commit)
        (repository / "refs" / "main").write_text(commit)
        found.append(OpenClipEncoder("hf-hub:someone/clip", None, "cpu").identity)
    assert [identity["revision"] for identity in found] == ["abc", "def"]
    assert found[0] != found[1]


def test_the_repositories_of_the_presets_are_those_of_open_clip() -> None:
    ensure_torchvision()
    import open_clip

    for (model, tag), repository in REPOSITORIES.items():
        assert open_clip.get_pretrained_cfg(model, tag)["hf_hub"] == f"{repository}/"
    rankers = [Config.of(name).ranker for name in preset_names()]
    models = {(r.model, r.pretrained) for r in rankers if isinstance(r, ClipConfig)}
    assert {m for m in models if m[0] != "miniature"} <= set(REPOSITORIES)


def test_missing_weights_raise_with_a_hint() -> None:
    with pytest.raises(MissingBackendError) as caught:
        OpenClipEncoder("ViT-B-32", "laion2b_s34b_b79k", "cpu").encode_texts(["a dog"])
    message = str(caught.value)
    assert "ViT-B-32" in message
    assert "laion2b_s34b_b79k" in message
    assert "--preset miniature" in message


def test_invalid_arguments_raise(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(InputError, match="did you mean ViT-B-32"):
        OpenClipEncoder("ViT-B-23", "openai", "cpu").encode_texts(["x"])
    with pytest.raises(InputError, match=r"laion2b_s34b_b79k.*got 'laion9b'"):
        OpenClipEncoder("ViT-B-32", "laion9b", "cpu").encode_texts(["x"])
    with pytest.raises(InputError, match="got none"):
        OpenClipEncoder("ViT-B-32", None, "cpu").encode_texts(["x"])
    with pytest.raises(InputError, match="which is not a folder"):
        OpenClipEncoder(f"local-dir:{tmp_path / 'nowhere'}", None).encode_texts(["x"])
    with pytest.raises(InputError, match=r"open_clip_config\.json"):
        OpenClipEncoder(str(tmp_path), None).encode_texts(["x"])
    # A config without weights must not be loaded with random weights.
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(MissingBackendError, match="Expected a loadable open_clip model"):
        OpenClipEncoder(str(tmp_path), None, "cpu").encode_texts(["x"])


def test_a_vector_that_is_not_finite_is_a_failure(
    encoder: OpenClipEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    model = encoder._load().model
    encode = model.encode_image

    def broken(pixels: torch.Tensor) -> torch.Tensor:
        features = encode(pixels)
        features[0] = float("nan")
        return features

    monkeypatch.setattr(model, "encode_image", broken)
    images = ImageSet.open(pictures(3))
    applied = apply(encoder, images, Runtime(), batch_size=3, desc="")
    assert list(applied.failures) == [0]
    assert "finite" in applied.failures[0]


def test_the_network_is_used_only_if_the_hub_responds(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    states: list[bool] = []

    def load() -> str:
        states.append(constants.HF_HUB_OFFLINE)
        if constants.HF_HUB_OFFLINE:
            raise OSError("not on disk")
        return "weights"

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_responds", lambda url: True)
    assert hub.load_weights(load, "m") == "weights"
    assert states == [True, False]
    assert constants.HF_HUB_OFFLINE is False

    states.clear()
    monkeypatch.setattr(hub, "_responds", lambda url: False)
    with pytest.raises(MissingBackendError, match="does not respond"):
        hub.load_weights(load, "m")
    assert states == [True]

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "_responds", lambda url: pytest.fail("asked although switched off"))
    with pytest.raises(MissingBackendError, match="switched off"):
        hub.load_weights(load, "m")


def test_an_unreachable_host_does_not_respond(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert hub._responds("http://127.0.0.1:9") is False


def test_unreadable_images_do_not_affect_the_batch(
    encoder: OpenClipEncoder, tmp_path: Path
) -> None:
    folder = folder_of_pictures(tmp_path / "set", 3)
    (folder / "001.png").write_text("no image")
    applied = apply(
        encoder,
        ImageSet.open(folder),
        Runtime(),
        batch_size=8,
        desc="",
    )
    assert list(applied.failures) == [1]
    assert [value is None for value in applied.values] == [False, True, False]
