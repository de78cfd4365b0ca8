"""Files of repositories on the Hugging Face Hub."""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ntm_rl.agents.storage.files import StorageError
from ntm_rl.errors import InputError

HUB_PREFIX = "hf://"
PAGE_PREFIX = "https://huggingface.co/"
PART = r"[A-Za-z0-9][\w.-]{0,95}(?<![.-])"
NAME = re.compile(rf"(?!.*(\.\.|--|\.git$)){PART}/{PART}", re.ASCII)
REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,99}", re.ASCII)
MEGABYTE = 10**6
AGENT_FILE = "agent/weights.safetensors"
LIMITS = {  # largest size of each file of an agent's repository
    **{name: MEGABYTE for name in ("README.md", "config.yaml", "results.json", "agent/card.json")},
    AGENT_FILE: 4_000 * MEGABYTE,
    "replay.mp4": 200 * MEGABYTE,
    "memory.html": 50 * MEGABYTE,
}
TIMEOUT = 30  # seconds
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


class HubError(StorageError):
    """The Hub cannot be reached, refuses access, or has no such repository."""


class Repository(NamedTuple):
    """A repository, USER/NAME, and a branch, tag or commit; None: the newest commit."""

    name: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Repository":
        """Parses `USER/NAME[@REVISION]`, also after `hf://`, or the URL of the repository's page.

        Raises:
            InputError: not such a name.
        """
        if text.startswith(PAGE_PREFIX):
            reference = text.removeprefix(PAGE_PREFIX).removesuffix("/")
        else:
            reference = text.removeprefix(HUB_PREFIX)
        name, at, revision = reference.partition("@")
        if not NAME.fullmatch(name):
            raise InputError(
                f"repository = {text!r}: must be USER/NAME or USER/NAME@REVISION; USER and NAME have 1 to 96 of the "
                "characters a-z, A-Z, 0-9, - _ and ., begin with a letter or digit, do not end in - or . or .git, and "
                "do not contain -- or .."
            )
        if at and (".." in revision or not REVISION.fullmatch(revision)):
            raise InputError(
                f"repository = {text!r}: the revision must be a branch, tag or commit: 1 to 100 of the characters a-z, "
                "A-Z, 0-9, - _ . and /, beginning with a letter or digit, without .."
            )
        return cls(name, revision or None)

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision}"


def is_hub_reference(text: Path | str) -> bool:
    """Whether a text is like `hf://USER/NAME`."""
    return isinstance(text, str) and text.startswith(HUB_PREFIX)


def require_hub() -> Any:
    """Returns the package huggingface_hub, with its progress bars turned off.

    Raises:
        InputError: it is not installed.
    """
    try:
        import huggingface_hub
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError as error:
        raise InputError(
            f'the Hub needs huggingface_hub, which cannot be imported ({error}); run: pip install "ntm-rl[hub]"'
        ) from error
    disable_progress_bars()
    return huggingface_hub


def download(repository: Repository, names: Collection[str] = LIMITS.keys()) -> dict[str, Path]:
    """Downloads known files of one commit of an agent's repository into the Hub's cache.

    Args:
        repository: The repository.
        names: Names from `LIMITS`. No other file is downloaded.

    Returns:
        The cached file of each of these files that the repository has.

    Raises:
        HubError: no connection, repository or access.
        StorageError: no repository of an agent, or a file that is too large.
    """
    hub = require_hub()
    with hub_errors(repository):
        info = hub.HfApi().model_info(
            repository.name, revision=repository.revision, files_metadata=True, timeout=TIMEOUT
        )
    sizes = {file.rfilename: file.size for file in info.siblings or []}
    if AGENT_FILE not in sizes:
        raise StorageError(f"{repository}: not the repository of an agent of ntm-rl: it has no {AGENT_FILE}")
    files = {}
    for name in names:
        if name in sizes:
            _check_size(repository, name, sizes[name])
            with hub_errors(repository):
                files[name] = Path(hub.hf_hub_download(repository.name, name, revision=info.sha))
            _check_size(repository, name, files[name].stat().st_size)
    return files


@contextmanager
def hub_errors(repository: Repository) -> Iterator[None]:
    """Raises errors of the Hub and of the network as one-line `HubError`s, without their texts, which are long."""
    require_hub()
    from huggingface_hub import constants, errors

    try:
        yield
    except InputError:  # ours
        raise
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{repository}: the repository has no such branch, tag or commit") from error
    except errors.RepositoryNotFoundError as error:  # also without access to a private or gated one
        raise HubError(
            f"{repository}: no such repository, or a private one to which you have no access; {LOG_IN}"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise HubError(f"{repository}: access denied; {LOG_IN}, with a token that may write there") from error
        raise HubError(f"{repository}: the Hub answers with status {status}; try again later") from error
    except Exception as error:  # the client and its HTTP library raise many types
        reason = type(error.__cause__ or error).__name__  # uploads raise a RuntimeError from the cause
        raise HubError(f"{repository}: {constants.ENDPOINT} cannot be reached or fails ({reason})") from error


def _check_size(repository: Repository, name: str, size: int | None) -> None:
    if size is None or size > LIMITS[name]:
        shown = "unknown size" if size is None else f"{size:,} bytes"
        raise StorageError(f"{repository}: {name} has {shown}: must be at most {LIMITS[name]:,} bytes")
