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
from ntm_rl.agents.settings.kinds import PPO
from ntm_rl.agents.tracking.wandb_writer import WandbWriter, valid_name

ANSWER_SECONDS = 5.0  # timeout of the check that the server answers
INIT_SECONDS = 60.0
UPLOAD_SECONDS = 120.0  # at the end of a run; `wandb sync` can send the rest later


def start_wandb(
    run_dir: Path,
    config: Mapping[str, Any],
    *,
    mode: WandbMode | None,
    project: str,
    entity: str | None = None,
    group: str | None = None,
    tags: tuple[str, ...] = (),
    steps_key: str = PPO.steps_metric,
    is_training: bool = True,
) -> WandbWriter | None:
    """Starts or resumes the W&B run of a run directory; its id is the name of the folder.

    In mode "online" without a login or a server that answers, the run is recorded offline, with a warning. `wandb sync
    RUN/wandb/offline-run-*` uploads it later, with the parts of a resumed run in order.

    Args:
        run_dir: The run directory; W&B's files go into its `wandb/`.
        config: The resolved config.
        mode: None: online if a login exists, else offline.
        project: W&B project.
        entity: W&B user or team.
        group: W&B group.
        tags: W&B tags.
        steps_key: Name of the metric that counts the steps.
        is_training: Store the last logged step, so that a resumed training logs no step twice.

    Returns:
        The writer, or None if W&B is disabled or failed to start.
    """
    run_dir = run_dir.resolve()  # resolves "." to a name
    name = valid_name(f"{run_dir.parent.name}-{run_dir.name}")
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
            mode=_available_mode(mode),
            resume="allow",
            allow_val_change=True,  # total_timesteps may change when a run is resumed
            reinit="create_new",  # does not log to a run that the caller has started
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_code=True,
                disable_git=True,
                init_timeout=INIT_SECONDS,
                finish_timeout=UPLOAD_SECONDS,
            ),
        )
    except Exception as error:  # W&B must not stop a training
        reason = without_passwords(str(error))
        warnings.warn(f"Weights & Biases could not start; training continues without it: {reason}", stacklevel=2)
        return None
    return WandbWriter(run, steps_key, run_dir / "wandb" / "sent_steps" if is_training else None)


def default_mode() -> WandbMode:
    """Returns `WANDB_MODE`, or "online" if a W&B login exists, or "offline"; makes no network request."""
    chosen = wandb_mode()
    if chosen is not None:
        return chosen
    return "online" if _has_login() else "offline"


def _available_mode(mode: WandbMode) -> WandbMode:
    if mode != "online":
        return mode
    if not _has_login():
        reason = "not logged in (run `wandb login`)"
    elif not _answers(_server()):
        reason = f"{without_passwords(_server())} does not answer"
    else:
        return mode
    warnings.warn(f"Weights & Biases records this run offline (upload it with `wandb sync`): {reason}", stacklevel=3)
    return "offline"


def _server() -> str:
    return str(wandb.setup().settings.base_url)


def _has_login() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE") or wandb.setup().settings.api_key:
        return True
    public = wandb.Settings().base_url
    # Logins for the former host name of the public server are still valid.
    names = (_server(), "https://api.wandb.ai") if _server() == public else (_server(),)
    try:
        logins = netrc.netrc(os.environ.get("NETRC"))
    except (OSError, netrc.NetrcParseError):
        return False
    return any(logins.authenticators(urlsplit(name).netloc.rpartition("@")[2]) for name in names)


def _answers(url: str) -> bool:
    """Whether a server answers, through a proxy if set; W&B would try for a minute and then lose the run."""
    try:
        urllib.request.urlopen(url, timeout=ANSWER_SECONDS).close()
    except HTTPError as error:
        error.close()
    except URLError as error:
        return isinstance(error.reason, ssl.SSLError)  # W&B may accept certificates that Python rejects
    except (OSError, ValueError):
        return False
    return True
