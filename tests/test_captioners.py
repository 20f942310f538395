"""Tests of all captioners on real classes with tiny weights, and of each captioner."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image
from tiny import folder_of_pictures, save_blip, save_blip2, save_open_clip

from visdiff.cache import Cache
from visdiff.captioners.blip import Blip2Captioner, BlipCaptioner
from visdiff.captioners.chat import ChatCaptioner
from visdiff.captioners.manifest import ManifestCaptioner
from visdiff.engine import Runtime
from visdiff.errors import InputError, MissingBackendError
from visdiff.imageset import ImageSet
from visdiff.llm import Failure, Picture, Request
from visdiff.llm.scripted import ScriptedChat

PROMPT = "ab c"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("weights")
    return {"blip2": save_blip2(root / "blip2"), "blip": save_blip(root / "blip")}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    folder = folder_of_pictures(tmp_path_factory.mktemp("pictures"), 9)
    (folder / "bad.png").write_text("no image")
    names = sorted(path.name for path in folder.iterdir())
    captions = [f"caption of {name}" for name in names]
    captions[names.index("bad.png")] = ""
    pd.DataFrame({"path": names, "caption": captions}).to_csv(folder / "m.csv", index=False)
    return ImageSet.open(folder / "m.csv")


Make = Callable[..., Any]


def checksum_reply(request: Request) -> str:
    picture = request.messages[0].parts[1]
    assert isinstance(picture, Picture)
    return f"picture {zlib.crc32(picture.data)}"


@pytest.fixture(params=["blip2", "blip", "chat", "manifest"])
def make(request: pytest.FixtureRequest, weights: dict[str, Path]) -> Make:
    if request.param == "manifest":
        return lambda **_: ManifestCaptioner()
    if request.param == "chat":
        return lambda runtime=None, **_: ChatCaptioner(
            lambda: ScriptedChat(checksum_reply), runtime=runtime
        )
    cls = {"blip2": Blip2Captioner, "blip": BlipCaptioner}[request.param]
    common = {"prompt": PROMPT, "max_new_tokens": 16, "device": "cpu"}
    return lambda **options: cls(**{"model": str(weights[request.param]), **common, **options})


def test_captions_do_not_depend_on_the_batch(make: Make, images: ImageSet) -> None:
    results = [make(batch_size=size).captions(images) for size in (1, 3, 8)]
    assert results[0] == results[1] == results[2]
    captions = [value for value in results[0].values if value is not None]
    assert len(set(captions)) > 2  # captions depend on the image
    assert all(isinstance(value, str) and value == value.strip() != "" for value in captions)


def test_captions_do_not_depend_on_the_order(make: Make, images: ImageSet) -> None:
    reversed_images = images.subset(list(reversed(range(len(images)))))
    forward = make(batch_size=4).captions(images)
    backward = make(batch_size=4).captions(reversed_images)
    assert forward.values == backward.values[::-1]


def test_failures_are_reported_and_not_cached(make: Make, images: ImageSet, tmp_path: Path) -> None:
    runtime = Runtime(Cache(tmp_path))
    first = make(runtime=runtime).captions(images)
    bad = images.ids.index("bad.png")
    assert first.values[bad] is None
    assert first.failures[bad]
    assert set(first.failures) == {i for i, value in enumerate(first.values) if value is None}
    assert make(runtime=runtime).captions(images) == first


def test_identity_excludes_device_and_batch_size(make: Make) -> None:
    assert make().identity == make(batch_size=2, device="auto").identity


@pytest.mark.parametrize("name", ["blip2", "blip"])
def test_cached_run_loads_no_model(
    name: str, weights: dict[str, Path], images: ImageSet, tmp_path: Path
) -> None:
    cls = {"blip2": Blip2Captioner, "blip": BlipCaptioner}[name]

    def captioner(**options: Any) -> Any:
        return cls(
            str(weights[name]),
            prompt=PROMPT,
            max_new_tokens=16,
            device="cpu",
            runtime=runtime,
            **options,
        )

    runtime = Runtime(Cache(tmp_path))
    first = captioner().captions(images)
    good = images.subset([i for i, value in enumerate(first.values) if value is not None])
    second = captioner()
    again = second.captions(good)
    assert second._ready is None
    assert again.values == [value for value in first.values if value is not None]
    other = captioner(num_beams=2)
    assert other.identity != second.identity


@pytest.mark.parametrize("name", ["blip2", "blip"])
def test_beams_do_not_depend_on_the_batch(
    name: str, weights: dict[str, Path], images: ImageSet
) -> None:
    cls = {"blip2": Blip2Captioner, "blip": BlipCaptioner}[name]
    options: dict[str, Any] = {"max_new_tokens": 6, "num_beams": 2, "device": "cpu"}
    one, many = (
        cls(str(weights[name]), batch_size=size, **options).captions(images) for size in (1, 5)
    )
    assert one == many


def test_prompt_changes_captions_and_is_not_repeated(
    weights: dict[str, Path], images: ImageSet
) -> None:
    for name, cls in (("blip2", Blip2Captioner), ("blip", BlipCaptioner)):
        with_prompt, without = (
            cls(str(weights[name]), prompt=prompt, max_new_tokens=16, device="cpu").captions(images)
            for prompt in (PROMPT, None)
        )
        assert with_prompt.values != without.values
        assert not any(value.startswith(PROMPT) for value in with_prompt.values if value)


def test_caption_without_end_token_is_a_failure(weights: dict[str, Path], images: ImageSet) -> None:
    applied = BlipCaptioner(str(weights["blip"]), max_new_tokens=1, device="cpu").captions(images)
    reasons = set(applied.failures.values())
    assert "no end within max_new_tokens=1; raise it" in reasons
    assert all(value is None for value in applied.values)


def test_empty_caption_is_a_failure(tmp_path: Path, images: ImageSet) -> None:
    empty = save_blip(tmp_path / "empty", end_bias=1000.0)
    cache = Cache(tmp_path / "cache")
    applied = BlipCaptioner(str(empty), device="cpu", runtime=Runtime(cache)).captions(images)
    good = [i for i, name in enumerate(images.ids) if name != "bad.png"]
    assert {applied.failures[i] for i in good} == {"empty caption"}
    assert cache.stats()["entries"] == 0


def test_invalid_models_and_settings(
    weights: dict[str, Path], tmp_path: Path, images: ImageSet
) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        BlipCaptioner(str(tmp_path / "nowhere")).captions(images)
    with pytest.raises(InputError, match="blip-2"):
        Blip2Captioner(str(weights["blip"]), device="cpu").captions(images)
    with pytest.raises(InputError, match="at least 1"):
        BlipCaptioner(max_new_tokens=0)
    clip = save_open_clip(tmp_path / "clip")
    with pytest.raises(MissingBackendError, match="save_pretrained"):
        BlipCaptioner(str(clip), device="cpu").captions(images)


def test_missing_weights_error_suggests_a_fix(images: ImageSet) -> None:
    with pytest.raises(MissingBackendError) as caught:
        BlipCaptioner(device="cpu").captions(images)
    message = str(caught.value)
    assert "Salesforce/blip-image-captioning-base" in message
    assert "--preset miniature" in message
    assert "network" in message


def test_default_revision_is_pinned() -> None:
    assert len(str(BlipCaptioner().identity["revision"])) == 40


def test_manifest_missing_values_are_failures(tmp_path: Path) -> None:
    folder_of_pictures(tmp_path, 4)
    rows = {"path": [f"{i:03d}.png" for i in range(4)], "text": ["a dog ", None, "  ", "7"]}
    pd.DataFrame(rows).to_csv(tmp_path / "m.csv", index=False)
    images = ImageSet.open(tmp_path / "m.csv")
    applied = ManifestCaptioner("text").captions(images)
    assert applied.values == ["a dog", None, None, "7"]
    assert set(applied.failures) == {1, 2}
    with pytest.raises(InputError, match=r"'caption'.*text"):
        ManifestCaptioner().captions(images)


def test_images_of_any_size_are_captioned(
    weights: dict[str, Path],
) -> None:
    unusual = [Image.new("RGB", size, "red") for size in ((1, 1), (500, 3), (33, 64))]
    applied = Blip2Captioner(str(weights["blip2"]), device="cpu", max_new_tokens=30).captions(
        ImageSet.open(unusual)
    )
    assert not any("prepared" in reason for reason in applied.failures.values())


def test_failed_replies_are_failures_and_the_others_are_kept(images: ImageSet) -> None:
    replies = [Failure("timed out", "timeout"), "a red  square\n", Failure("refused", "refusal")]
    llm = ScriptedChat([*replies, *["a circle"] * (len(images) - 4)])
    found = ChatCaptioner(lambda: llm).captions(images)
    good = [i for i, name in enumerate(images.ids) if name != "bad.png"]
    assert [found.values[i] for i in good[:4]] == [None, "a red square", None, "a circle"]
    assert (found.failures[good[0]], found.failures[good[2]]) == ("timed out", "refused")
    # One request per readable image, with the image and the maximum length.
    assert len(llm.requests) == len(good)
    assert all(isinstance(r.messages[0].parts[1], Picture) for r in llm.requests)
    assert {r.max_tokens for r in llm.requests} == {200}


def test_chat_model_without_vision_is_rejected_before_any_request(images: ImageSet) -> None:
    llm = ScriptedChat(["never"], vision=False)
    with pytest.raises(InputError, match="with vision"):
        ChatCaptioner(lambda: llm).captions(images)
    assert not llm.requests


def test_prompt_is_in_the_identity() -> None:
    llm = ScriptedChat(["a"])
    default, custom = ChatCaptioner(lambda: llm), ChatCaptioner(lambda: llm, prompt="What is it?")
    assert default.identity != custom.identity
    assert list(default.prompts) == ["caption@1"]
    assert custom.prompts == {}
