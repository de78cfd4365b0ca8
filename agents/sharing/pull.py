"""Downloads an agent from the Hugging Face Hub as a run."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from ntm_rl.agents.policy.files import load_agent
from ntm_rl.agents.runs.run import Run
from ntm_rl.agents.storage.files import WriteError
from ntm_rl.agents.storage.hub import Repository, download
from ntm_rl.errors import InputError


def pull(repository: Repository, folder: Path) -> Run:
    """Downloads the known files of an agent's repository into a new run folder, and checks them.

    No code runs: a run that imports a module needs `--trust` like any other run that was not made here.

    Args:
        repository: A repository written by `push`.
        folder: Folder of the run; must not exist.

    Raises:
        InputError: a folder that exists, or a config that is not valid.
        HubError: no connection, repository or access.
        StorageError: no repository of an agent, or damaged files.
    """
    if folder.exists() or folder.is_symlink():
        raise InputError(f"{folder}: exists already; choose another name or delete it")
    parent = folder.absolute().parent
    if not parent.is_dir():
        raise InputError(f"{folder}: no such folder: {parent}")
    files = download(repository)
    try:
        with TemporaryDirectory(prefix=".pull-", dir=parent) as name:
            unfinished = Path(name) / "run"
            for path, file in files.items():
                (unfinished / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, unfinished / path)
            _check(repository, Run.open(unfinished))
            unfinished.rename(folder)
    except OSError as error:
        raise WriteError(f"{folder}: cannot be written: {error.strerror or error}") from error
    return Run.open(folder)


def _check(repository: Repository, run: Run) -> None:
    try:
        settings = run.ppo_settings()
        if not settings.user_modules:  # the agent of a user's core can only be built with its module
            load_agent(run.agent, "cpu")
    except InputError as error:
        text = str(error).replace(f"{run.path}/", "")
        raise InputError(f"{repository}: {text.splitlines()[0]}") from error
