"""A model folder to a repository of the hub, by huggingface_hub, whose variables say which hub and whose token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id


def check_push(repo: str) -> None:
    """Before anything is written: the name is one, and there is a token.

    Raises:
        ValueError: otherwise, with the way out.
    """
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ValueError(f"--push={repo} is not the name of a repository ({error}). Write OWNER/NAME.") from error
    if get_token() is None:
        raise ValueError(f"--push={repo}: there is no token of the hub. Log in with `hf auth login`, or set HF_TOKEN.")


def push(folder: Path, repo: str, *, public: bool) -> str:
    """Upload all files of a folder in one commit; the repository is made where there is none.

    Args:
        folder: of the model.
        repo: OWNER/NAME.
        public: whether a new repository is seen by everybody; one that exists stays as it is.

    Returns:
        Where the model is now.

    Raises:
        ValueError: the hub refuses, or is not reached; the folder is whole all the same.
    """
    hub = HfApi()
    with _explained(folder, repo):
        made = hub.create_repo(repo, private=not public, exist_ok=True)
        hub.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message="Exported by dragonfly_lit")
    return str(made)


@contextmanager
def _explained(folder: Path, repo: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # httpx's, the hub's, those of its uploads: no common kind
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise ValueError(
            f"--push={repo} failed: {lines[0].rstrip('.')}. {folder} is whole; push it again with "
            f"`hf upload {repo} {folder}`."
        ) from error
