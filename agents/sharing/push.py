"""Uploads a run's agent to the Hugging Face Hub."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ntm_rl.agents.inspection.episode import PlayOptions
from ntm_rl.agents.inspection.evaluation import check_counts, evaluate
from ntm_rl.agents.inspection.video import record
from ntm_rl.agents.inspection.watch import watch
from ntm_rl.agents.policy.files import write_agent
from ntm_rl.agents.runs.loading import load_run_agent
from ntm_rl.agents.runs.run import Run
from ntm_rl.agents.sharing.card import model_card, results_of
from ntm_rl.agents.sharing.config import published_config
from ntm_rl.agents.storage.hub import LIMITS, LOG_IN, TIMEOUT, HubError, Repository, hub_errors, require_hub
from ntm_rl.errors import InputError

IGNORED = (".gitattributes",)  # written by the Hub
STEPS_SHOWN = 1_000  # longest video


def _record(run: Run, path: Path, seed: int, best: bool) -> None:
    record(run, path, seed=seed, best=best, max_steps=STEPS_SHOWN)


def _watch(run: Run, path: Path, seed: int, best: bool) -> None:
    watch(run, PlayOptions(seed=seed, best=best), out=path)


# Files that show an episode. One that this environment or installation cannot make is left out, with a note.
SHOWN: dict[str, Callable[[Run, Path, int, bool], None]] = {"replay.mp4": _record, "memory.html": _watch}


def push(
    run: Run,
    repository: Repository,
    *,
    best: bool = False,
    private: bool = False,
    episodes: int = 100,
    seed: int = 10_000,
) -> tuple[str, dict[str, Any]]:
    """Evaluates a run's agent and uploads it in one commit: agent, config, results, video, page and model card.

    Args:
        run: A PPO run.
        repository: The repository. It is created before the evaluation if it does not exist.
        best: Upload the best agent of the training instead of the last.
        private: Make a new repository private.
        episodes: Episodes of the evaluation.
        seed: Seed of the evaluation, the video and the page.

    Returns:
        The URL of the commit and the results of the evaluation.

    Raises:
        InputError: no agent, a newer one after the evaluation, no episode that ends, or a path of this machine in the
            config.
        HubError: no connection, no token, no access, or a repository of something else.
    """
    hub = require_hub()
    if repository.revision is not None:
        raise InputError(f"repository = '{repository}': is pushed to its main branch; leave out @{repository.revision}")
    settings = run.ppo_settings()
    config = published_config(settings)
    check_counts(seed, episodes=episodes)
    settings.import_core()
    agent = load_run_agent(run, best=best)
    _require_access(hub, repository, private)
    result = evaluate(run, episodes, seed=seed, best=best, show_progress=True)
    if agent.origin != result.origin:
        raise InputError(f"{run.path}: the training wrote a newer agent during the evaluation; push after its end")
    if not result.ended:
        raise InputError(
            f"{run.path}: no episode ended within {result.max_steps:,} steps, so there is no mean reward to publish; "
            "train with env.max_episode_steps=N"
        )
    if result.ended < result.episodes:
        shown = f"{result.ended} of {result.episodes} episodes that ended within {result.max_steps:,} steps"
        print(f"note: the mean reward covers only the {shown}", file=sys.stderr)
    results = results_of(settings, result, seed)
    with TemporaryDirectory(prefix="ntm-rl-push-") as name:
        folder = Path(name)
        write_agent(agent, folder / "agent")
        (folder / "config.yaml").write_text(config)
        (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
        _show(run, folder, seed, best)
        files = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
        (folder / "README.md").write_text(model_card(repository, settings, agent, results, files))
        return _commit(hub, repository, folder, ["README.md", *files]), results


def _require_access(hub: Any, repository: Repository, private: bool) -> None:
    """Creates a missing repository, and checks that the token may write and that no other files are in it."""
    if hub.get_token() is None:
        raise HubError(f"{repository}: not logged in; {LOG_IN}")
    api = hub.HfApi()
    with hub_errors(repository):
        api.whoami()
    others = [name for name in _existing(hub, repository) if name not in (*IGNORED, *LIMITS)]
    if others:
        raise InputError(f"{repository}: the repository has other files, such as {others[0]!r}; choose another name")
    with hub_errors(repository):
        api.create_repo(repository.name, private=private or None, exist_ok=True)
        api.auth_check(repository.name, write=True)


def _existing(hub: Any, repository: Repository) -> list[str]:
    """Returns the names of the files of a repository; empty if it does not exist."""
    with hub_errors(repository):
        try:
            info = hub.HfApi().model_info(repository.name, timeout=TIMEOUT)
        except hub.errors.RepositoryNotFoundError:
            return []
    return [file.rfilename for file in info.siblings or []]


def _show(run: Run, folder: Path, seed: int, best: bool) -> None:
    for name, make in SHOWN.items():
        path = folder / name
        try:
            make(run, path, seed, best)
        except InputError as error:
            print(f"note: without {name}: {error}", file=sys.stderr)
            path.unlink(missing_ok=True)
        if path.exists() and path.stat().st_size > LIMITS[name]:
            print(f"note: without {name}: it is larger than {LIMITS[name]:,} bytes", file=sys.stderr)
            path.unlink()


def _commit(hub: Any, repository: Repository, folder: Path, names: list[str]) -> str:
    """Uploads files, and deletes those of an earlier push that this one lacks; returns the URL of the commit."""
    api = hub.HfApi()
    with hub_errors(repository):
        stale = [name for name in _existing(hub, repository) if name in LIMITS and name not in names]
        operations = [
            *(hub.CommitOperationAdd(name, str(folder / name)) for name in names),
            *(hub.CommitOperationDelete(name) for name in stale),
        ]
        commit = api.create_commit(repository.name, operations, commit_message="Upload an agent of ntm-rl")
    return str(commit.commit_url)
