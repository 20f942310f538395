"""Publication of an edit: a folder with its file, its model card and exports, and its upload."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from editing.edit import Edit
from editing.edit.card import EDIT_FILE, model_card
from editing.edit.formats import export_edit
from visdiff.errors import InputError
from visdiff.files import explained, write_texts, write_whole


def save_folder(
    edit: Edit,
    folder: str | Path,
    *,
    pipe: Any = None,
    formats: Sequence[str] = (),
    samples: Sequence[str | Path] = (),
    repo_id: str | None = None,
) -> Path:
    """Writes the folder that `push` uploads and returns its path.

    Args:
        edit: The edit.
        folder: Where to write: "edit.safetensors", "README.md", the exports, and "images".
        pipe: The unedited pipeline, which exports need.
        formats: Names of `editing.edit.formats` to export, such as "diffusers".
        samples: Image files to show in the card; they are copied.
        repo_id: "owner/name" for the card; default: the folder.

    Raises:
        InputError: A format cannot hold the edit or no pipeline is given for it, two samples have
            the same name, or a file cannot be read or written.
    """
    folder = Path(folder)
    if formats and pipe is None:
        raise InputError(
            f"Expected the unedited pipeline for exports ({', '.join(formats)}), got none; pass "
            "pipe=…."
        )
    images = {f"images/{Path(sample).name}": Path(sample) for sample in samples}
    if len(images) < len(samples):
        raise InputError(
            "Expected sample images of distinct names, got one name twice; rename one of them."
        )
    edit.save(folder / EDIT_FILE)
    for form in formats:
        export_edit(edit, pipe, form, folder)
    for name, source in images.items():
        with explained("a sample image that can be copied", source, "check the path"):
            write_whole(folder / name, lambda part, source=source: shutil.copyfile(source, part))
    card = model_card(edit, repo_id or str(folder), formats, list(images))
    write_texts(folder, {"README.md": card})
    return folder


def push(
    edit: Edit,
    repo_id: str,
    *,
    pipe: Any = None,
    formats: Sequence[str] = (),
    samples: Sequence[str | Path] = (),
    private: bool = False,
    message: str | None = None,
    endpoint: str | None = None,
) -> str:
    """Uploads an edit to the Hugging Face hub and returns the address of the commit.

    The token is that of ``hf auth login`` or of the variable HF_TOKEN.

    Args:
        edit: The edit.
        repo_id: "owner/name"; the repository is created if there is none.
        pipe: As `save_folder`.
        formats: As `save_folder`.
        samples: As `save_folder`.
        private: Whether a new repository is private.
        message: Message of the commit.
        endpoint: Address of another hub.

    Raises:
        InputError: As `save_folder`, or the hub refuses the upload or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    api = HfApi(endpoint=endpoint)
    with tempfile.TemporaryDirectory() as temporary:
        written = save_folder(
            edit, temporary, pipe=pipe, formats=formats, samples=samples, repo_id=repo_id
        )
        try:
            api.create_repo(repo_id, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=written,
                commit_message=message or f"Edit {edit.digest[:12]} by {edit.method}",
            )
        except HFValidationError as error:
            raise InputError(
                f"Expected a repository owner/name, got {repo_id!r} ({error}); rename it."
            ) from error
        # Which errors a lost connection raises depends on the version of huggingface_hub.
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"Expected a hub that takes an upload to {repo_id}, got: {reason}; log in with "
                "`hf auth login` or set HF_TOKEN, and check the name and the connection."
            ) from error
    return str(commit.commit_url)
