"""Tests of model cards and of uploads, against a hub on the loopback."""

import base64
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines as tiny
import torch
import yaml
from PIL import Image

from editing.edit import Edit
from editing.edit.card import model_card
from editing.edit.deltas import LowRank, NewTokens
from editing.edit.hub import save_folder
from editing.requests import Erase
from visdiff.errors import InputError

LAYER = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
TOKEN = "hf_secret_token_of_the_test"


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny.sd1()


def make_edit(pipe: Any, base: str = "owner/model", concept: str = "a church") -> Edit:
    """Returns an edit of one layer with a new token."""
    up, down = torch.ones(16, 1), torch.ones(1, tiny.WIDTH)
    vectors = {"<dog>": torch.ones(tiny.WIDTH)}
    return Edit.of(
        pipe, base_model=base, method="lora", requests=(Erase(concept),),
        config={"steps": 3, "note": "```\n<b>"}, seeds=(4,),
        changes=(LowRank(LAYER, up, down), NewTokens("tokenizer", "text_encoder", vectors)),
    )  # fmt: skip


def header(card: str) -> dict[str, Any]:
    """Returns the YAML header of a card."""
    found = re.match(r"---\n(.*?)\n---\n", card, re.S)
    assert found is not None
    return yaml.safe_load(found[1])


def test_a_card_has_what_the_hub_reads_and_how_to_use_the_edit(pipe: Any) -> None:
    edit = make_edit(pipe)
    card = model_card(edit, "me/church", ["diffusers"], ["images/1.png"])
    values = header(card)
    assert values["base_model"] == "owner/model"
    assert values["library_name"] == "diffusers"
    assert {"visdiff", "lora", "textual_inversion"} <= set(values["tags"])
    for part in (
        "pipe.load_lora_weights('me/church', weight_name='pytorch_lora_weights.safetensors')",
        "weight_name='learned_embeds.safetensors', text_encoder=pipe.text_encoder",
        "editing.Edit.load('edit.safetensors')",
        edit.digest,
        edit.base_hash,
        '"steps": 3',
        "![1](images/1.png)",
        "- erase a church",
    ):
        assert part in card
    assert "base_model" not in header(model_card(make_edit(pipe, "folder"), "x"))
    assert "apply the edit with visdiff" in model_card(edit, "me/church")


def test_text_of_the_user_is_no_markup_in_a_card(pipe: Any) -> None:
    evil = "x\n# big <script>alert(1)</script> [a](http://b) | `c` *d*"
    card = model_card(make_edit(pipe, "a: {b}\n- c", evil), "me/x", [], ["images/a b](c).png"])
    assert "<script>" not in card
    assert "\n# big" not in card
    assert "[a](http" not in card
    assert "images/a%20b%5D%28c%29.png" in card
    # A fence in the settings does not end the block that shows them.
    assert "````json" in card
    assert isinstance(header(card)["tags"], list)


def test_a_folder_holds_the_edit_its_card_and_exports(pipe: Any, tmp_path: Path) -> None:
    edit = make_edit(pipe)
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    folder = save_folder(
        edit, tmp_path / "out", pipe=pipe, formats=["diffusers"], samples=[tmp_path / "1.png"]
    )
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == {
        "edit.safetensors",
        "README.md",
        "pytorch_lora_weights.safetensors",
        "learned_embeds.safetensors",
        "images/1.png",
    }
    assert Edit.load(folder / "edit.safetensors").digest == edit.digest
    with pytest.raises(InputError, match="Expected the unedited pipeline for exports"):
        save_folder(edit, tmp_path / "no", formats=["diffusers"])
    with pytest.raises(InputError, match="Expected a sample image that can be copied"):
        save_folder(edit, tmp_path / "no", samples=[tmp_path / "none.png"])
    with pytest.raises(InputError, match="distinct names"):
        save_folder(edit, tmp_path / "no", samples=[tmp_path / "1.png", tmp_path / "1.png"])


class Hub(BaseHTTPRequestHandler):
    """A hub that keeps what is uploaded; the repository "me/refused" cannot be written."""

    files: dict[str, bytes]
    tokens: set[str]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.tokens.add(self.headers.get("Authorization", ""))
        if "refused" in self.path or (self.path.endswith("create") and b"refused" in body):
            self.reply(403, {"error": "no write access"})
        elif self.path.endswith("/preupload/main"):
            asked = json.loads(body)["files"]
            modes = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked
            ]
            self.reply(200, {"files": modes})
        elif "/commit/main" in self.path:
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = entry["value"]
                    self.files[value["path"]] = base64.b64decode(value["content"])
            address = f"http://{self.headers['Host']}/me/church"
            self.reply(200, {"commitUrl": f"{address}/commit/1", "commitOid": "1", "success": True})
        else:
            self.reply(200, {"url": f"http://{self.headers['Host']}/me/church"})

    def do_GET(self) -> None:
        self.reply(404, {"error": "not found"})

    def reply(self, status: int, values: Any) -> None:
        content = json.dumps(values).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, type[Hub]]]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    handler = type("Fresh", (Hub,), {"files": {}, "tokens": set()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    server.server_close()


def test_an_edit_is_uploaded_without_the_token(pipe: Any, hub: tuple[str, type[Hub]]) -> None:
    address, received = hub
    edit = make_edit(pipe)
    url = edit.push_to_hub("me/church", pipe=pipe, formats=["diffusers"], endpoint=address)
    assert url == f"{address}/me/church/commit/1"
    assert {"edit.safetensors", "README.md", "pytorch_lora_weights.safetensors"} <= set(
        received.files
    )
    assert "me/church" in received.files["README.md"].decode()
    assert received.tokens == {f"Bearer {TOKEN}"}
    assert not any(TOKEN.encode() in content for content in received.files.values())


def test_a_hub_that_refuses_is_one_sentence(pipe: Any, hub: tuple[str, type[Hub]]) -> None:
    with pytest.raises(InputError, match="Expected a hub that takes an upload") as refused:
        make_edit(pipe).push_to_hub("me/refused", endpoint=hub[0])
    assert TOKEN not in str(refused.value)
    with pytest.raises(InputError, match="Expected a repository owner/name"):
        make_edit(pipe).push_to_hub("me/a/b", endpoint=hub[0])
    with pytest.raises(InputError, match="Expected a hub that takes an upload"):
        make_edit(pipe).push_to_hub("me/church", endpoint="http://127.0.0.1:9")
