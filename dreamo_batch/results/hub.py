"""Upload an exported folder to the Hugging Face hub as a dataset."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from dreamo_batch.errors import UsageError
from dreamo_batch.text import first_line

if TYPE_CHECKING:
    from pathlib import Path

# https://huggingface.co/docs/huggingface_hub/guides/hf_file_system names datasets in this way.
_ADDRESS: Final = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(?:/([\w./-]+?))?/?")


class Dataset(NamedTuple):
    """A dataset on the hub, and a folder in it; an empty path is the whole of it."""

    name: str
    path: str = ""


def read_address(address: object) -> Dataset:
    """Read `hf://datasets/OWNER/NAME`, and check that it can be uploaded to."""
    match = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
    if match is None:
        raise UsageError(f'to={address!r}: "hf://datasets/OWNER/NAME" was expected.')
    try:
        import huggingface_hub  # noqa: F401 - asked for before anything is written
    except ImportError as error:
        raise UsageError(
            f"Uploading needs huggingface_hub ({error}): pip install 'dreamo-batch[hub]'."
        ) from None
    return Dataset(match[1], match[2] or "")


def upload(folder: Path, dataset: Dataset) -> str:
    """Upload a folder in one commit, to a private dataset if it is new; return the address of the commit."""
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(dataset.name, repo_type="dataset", private=True, exist_ok=True)
        commit = api.upload_folder(
            repo_id=dataset.name,
            repo_type="dataset",
            folder_path=folder,
            path_in_repo=dataset.path or None,
            commit_message="Export of dreamo-batch",
        )
    except Exception as error:  # the hub's errors are of many kinds: refused, offline, too large
        raise UsageError(
            f"{dataset.name} can't be uploaded to ({first_line(error)}). The export is in "
            f"{folder}. Check that the dataset is yours and that you are logged in: hf auth login, or HF_TOKEN."
        ) from error
    return str(commit.commit_url)
