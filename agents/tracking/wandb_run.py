"""Starts W&B runs."""

import netrc
import os
import ssl
import urllib.request
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

import wandb

from ntm_rl.agents.settings.environment_variables import WandbMode, wandb_mode, without_passwords
from ntm_rl.agents.tracking.metrics import STEPS
from ntm_rl.agents.tracking.wandb_writer import WandbWriter, _valid_name

ANSWER_SECONDS = 5.0  # for a server to show that it is there


INIT_SECONDS = 60.0


UPLOAD_SECONDS = 120.0  # at the end of a run; what is not sent by then stays in the run directory for `wandb sync`


def start_wandb(
    run_dir: Path,
    config: Mapping[str, Any],
    *,
    mode: WandbMode | None,
    project: str,
    entity: str | None = None,
    group: str | None = None,
    tags: tuple[str, ...] = (),
    steps_key: str = STEPS,
    is_training: bool = True,
) -> WandbWriter | None:
    """Starts, or goes on with, the W&B run of a run directory; its id is made of the folder's name.

    Where "online" is asked for but there is no login, or no server answers, the run is recorded offline, with a
    warning. `wandb sync RUN/wandb/offline-run-*` sends such runs later, the parts of a resumed one in their order.

    Args:
        run_dir: The run directory; W&B's own files go into its `wandb/`.
        config: The resolved configuration.
        mode: None means online where a login exists and else offline.
        project: W&B project.
        entity: W&B user or team.
        group: W&B group.
        tags: W&B tags.
        steps_key: Name of the metric that counts the steps.
        is_training: Keep, for a resume, up to which step W&B has the rows.

    Returns:
        A writer, or None if tracking is disabled or W&B failed to start.
    """
    run_dir = run_dir.resolve()  # "." has the name of its folder
    name = _valid_name(f"{run_dir.parent.name}-{run_dir.name}")
    try:
        mode = default_mode() if mode is None else mode
        if mode == "disabled":
            return None
        run = wandb.init(
            project=project,
            entity=entity,
            group=group,
            tags=list(tags),
            config=dict(config),
            dir=str(run_dir),
            id=name,
            name=name,
            mode=_possible(mode),
            resume="allow",
            allow_val_change=True,  # a resumed run may train for longer
            reinit="create_new",  # a run that the caller's own script has under way is not ours to log to
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_code=True,
                disable_git=True,
                init_timeout=INIT_SECONDS,
                finish_timeout=UPLOAD_SECONDS,
            ),
        )
    except Exception as error:  # as in WandbWriter: a mirror
        why = without_passwords(str(error))
        warnings.warn(f"Weights & Biases could not start; training goes on without it: {why}", stacklevel=2)
        return None
    return WandbWriter(run, steps_key, run_dir / "wandb" / "sent_steps" if is_training else None)


def default_mode() -> WandbMode:
    """Returns `WANDB_MODE`, else "online" where a W&B login exists, else "offline"; asks nobody and no network."""
    chosen = wandb_mode()
    if chosen is not None:
        return chosen
    return "online" if _has_login() else "offline"


def _possible(mode: WandbMode) -> WandbMode:
    if mode != "online":
        return mode
    if not _has_login():
        reason = "there is no login (`wandb login` makes one)"
    elif not _answers(_server()):
        reason = f"{without_passwords(_server())} does not answer"
    else:
        return mode
    warnings.warn(f"Weights & Biases records this run offline, for `wandb sync` to send: {reason}", stacklevel=3)
    return "offline"


def _server() -> str:
    return str(wandb.setup().settings.base_url)


def _has_login() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE") or wandb.setup().settings.api_key:
        return True
    public = wandb.Settings().base_url
    # W&B's public server changed its name; logins made under the old one are still good.
    names = (_server(), "https://api.wandb.ai") if _server() == public else (_server(),)
    try:
        logins = netrc.netrc(os.environ.get("NETRC"))
    except (OSError, netrc.NetrcParseError):
        return False
    return any(logins.authenticators(urlsplit(name).netloc.rpartition("@")[2]) for name in names)


def _answers(url: str) -> bool:
    """Whether a server is there, through a proxy if one is set; W&B would try for a minute and then lose the run."""
    try:
        urllib.request.urlopen(url, timeout=ANSWER_SECONDS).close()
    except HTTPError as error:
        error.close()
    except URLError as error:
        return isinstance(error.reason, ssl.SSLError)  # W&B may trust certificates that Python does not know
    except (OSError, ValueError):
        return False
    return True
