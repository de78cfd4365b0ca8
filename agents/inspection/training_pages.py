"""Writes pages during a training."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ntm_rl.agents.inspection.episode import PlayOptions
from ntm_rl.agents.inspection.page.build import Source, build_page
from ntm_rl.agents.inspection.watch import episodes_source, sequences_source, title_of
from ntm_rl.agents.policy.files import load_agent
from ntm_rl.agents.policy.network_files import load_network
from ntm_rl.agents.runs.loading import Origin, RunAgent
from ntm_rl.agents.runs.trainer import SaveAgent, Session
from ntm_rl.agents.settings.loading import AnySettings
from ntm_rl.agents.settings.schema import PpoTrainingSettings, SupervisedTrainingSettings
from ntm_rl.agents.storage.files import write_atomically
from ntm_rl.agents.storage.random_states import host_states, restore_host_states
from ntm_rl.agents.tracking.pages import ONLY_WANDB, HtmlPage
from ntm_rl.errors import InputError


def write_training_page(settings: AnySettings, session: Session, step: int, save_agent: SaveAgent) -> None:
    """Writes a page of the current agent or network to the run's `watch/`, and logs it to W&B.

    The training is not affected: a copy of the agent plays on the CPU, and all generators are restored. An error is
    printed and does not end the training.

    Args:
        settings: Settings of the training.
        session: The session of the training.
        step: Environment steps or sequences so far.
        save_agent: Writes the agent or network to a folder.
    """
    states = host_states()
    try:
        with TemporaryDirectory(prefix="ntm-rl-") as folder, torch.random.fork_rng(devices=[]):
            save_agent(Path(folder))
            source = _source(Path(folder), settings, f"{session.run.path.name}, {settings.kind.unit} {step:,}", step)
        content = build_page(title_of(settings), [source])
        write_atomically(session.run.make_folder("watch") / f"{settings.kind.unit}-{step}.html", content.encode())
        session.logger.record("watch/page", HtmlPage(content), exclude=ONLY_WANDB)
    except InputError as error:
        print(f"note: watch.every: no page at {settings.kind.unit} {step:,}: {error}", file=sys.stderr)
    finally:
        restore_host_states(states)


def _source(folder: Path, settings: AnySettings, name: str, step: int) -> Source:
    options = PlayOptions()
    if isinstance(settings, SupervisedTrainingSettings):
        return sequences_source(name, load_network(folder)[0], settings, options)[0]
    assert isinstance(settings, PpoTrainingSettings)
    loaded = load_agent(folder, "cpu")
    origin = Origin(False, folder, step, loaded.card["extra"]["level"])
    return episodes_source(name, RunAgent(loaded.policy, loaded.card, loaded.statistics, origin), settings, options)[0]
