"""Loads the agent or network of a run."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ntm_rl.agents.policy.files import LoadedAgent, load_agent, load_checkpoint_agent
from ntm_rl.agents.policy.network_files import load_network
from ntm_rl.agents.policy.sequence_network import SequenceNetwork
from ntm_rl.agents.runs.run import Run
from ntm_rl.agents.settings.kinds import PPO, SUPERVISED, TrainingKind
from ntm_rl.agents.settings.paths import display_path
from ntm_rl.agents.settings.schema import SupervisedTrainingSettings
from ntm_rl.agents.storage.cards import WEIGHTS
from ntm_rl.agents.storage.checkpoints import SUPERVISED_CHECKPOINT, newer_checkpoint, read_parts
from ntm_rl.agents.storage.files import StorageError
from ntm_rl.agents.storage.planning import build_filled
from ntm_rl.agents.storage.tensors import read_tensors
from ntm_rl.errors import InputError


@dataclass(frozen=True)
class Origin:
    """The source of an agent or network.

    Attributes:
        is_best: Whether it is the best agent of the training, not the last.
        path: Folder of the agent, or file of the checkpoint.
        step: Environment steps or sequences that it was trained on; None if its card does not say.
        level: Level of the curriculum that it reached; None without one.
        mean_return: Mean return of the best agent's last episodes in training; None for others.
        unit: The unit of `step`.
    """

    is_best: bool
    path: Path
    step: int | None
    level: int | None = None
    mean_return: float | None = None
    unit: Literal["step", "sequence"] = "step"

    @property
    def is_checkpoint(self) -> bool:
        """Whether it comes from a checkpoint, not from an agent's folder."""
        return self.path.is_file()

    @property
    def _name(self) -> str:
        return "best" if self.is_best else "last"

    def __str__(self) -> str:
        parts = [
            f"{self.unit} unknown" if self.step is None else f"{self.unit} {self.step:,}",
            *([] if self.level is None else [f"level {self.level}"]),
            *([] if self.mean_return is None else [f"mean return {self.mean_return:g} in training"]),
            "from a checkpoint" if self.is_checkpoint else "saved by the training",
        ]
        return f"the {self._name} agent: {', '.join(parts)} ({self.path})"

    def row(self) -> dict[str, Any]:
        """Returns the source as JSON values."""
        return {"agent": self._name, "source": display_path(self.path), "step": self.step, "level": self.level}


@dataclass(frozen=True)
class RunAgent(LoadedAgent):
    """An agent of a run, and its source."""

    origin: Origin


def load_run_agent(run: Run | Path | str, *, best: bool = False, device: str | None = None) -> RunAgent:
    """Loads a run's agent with its normalisation statistics; no environment is made.

    The last agent is the one saved at the end of the training, or that of a newer checkpoint, as of a training that is
    running or was killed.

    Args:
        run: A run, or its folder.
        best: Load the agent with the best mean return in training instead of the last.
        device: Device of the policy; None: the device of the run's config, or the CPU if it is not available.

    Raises:
        InputError: the run or agent does not exist or is damaged.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    settings = run.ppo_settings()
    policy_device = available_device(settings.device) if device is None else device
    path = _choose(run, best, PPO)
    agent = load_checkpoint_agent(path, policy_device) if path.is_file() else load_agent(path, policy_device)
    return RunAgent(agent.policy, agent.card, agent.statistics, _origin(best, path, agent.card, PPO))


def load_run_network(run: Run | Path | str, *, best: bool = False) -> tuple[SequenceNetwork, Origin]:
    """Loads a supervised run's network on the CPU, with the mean weights that are validated; see `load_run_agent`.

    Raises:
        InputError: the run or network does not exist, is damaged, or is of another task.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    settings = run.supervised_settings()
    path = _choose(run, best, SUPERVISED)
    if path.is_file():
        network, card = _checkpoint_network(path, settings)
    else:
        network, card = load_network(path)
    origin = _origin(best, path, card, SUPERVISED)
    task = card.get("extra", {}).get("task")
    if task != settings.task.name:
        raise InputError(f"{path}: a network of task {task!r}; the run's config says {settings.task.name!r}")
    return network, origin


def available_device(device: str) -> torch.device:
    """Returns the device of a config, or the CPU, with a note, if this machine does not have it."""
    if device.startswith("cuda"):
        number = int(device.partition(":")[2] or 0)
        is_available = torch.cuda.is_available() and number < torch.cuda.device_count()
    else:
        is_available = device != "mps" or torch.backends.mps.is_available()
    if not is_available:
        print(f"note: device = {device!r} of the run's config is not available; using the CPU", file=sys.stderr)
        return torch.device("cpu")
    return torch.device(device) if device != "auto" else torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _choose(run: Run, best: bool, kind: TrainingKind) -> Path:
    """Returns the folder of an agent or the file of a checkpoint."""
    if best:
        if not run.best.is_dir():
            raise InputError(
                f"run = {str(run.path)!r}: no best agent yet; it is saved after a validation, or once enough episodes "
                "have ended for the mean return; leave out --best for the last agent"
            )
        return run.best
    written = run.agent if run.agent.is_dir() else None
    checkpoint = newer_checkpoint(run.checkpoints, -1 if written is None else _step_of(written, kind))
    path = checkpoint or written
    if path is None:
        raise InputError(
            f"{run.checkpoints}: no usable checkpoint, and no agent in {run.agent}; a training writes the first "
            "checkpoint after checkpoint.every steps"
        )
    return path


def _step_of(folder: Path, kind: TrainingKind) -> int:
    """Returns the step of an agent; without one on its card it counts as newer than any checkpoint."""
    extra = read_tensors(folder / WEIGHTS)[1].get("extra")
    step = extra.get(kind.counter) if isinstance(extra, Mapping) else None
    return step if isinstance(step, int) else sys.maxsize


def _origin(is_best: bool, path: Path, card: Mapping[str, Any], kind: TrainingKind) -> Origin:
    extra = card.get("extra", {})
    if not isinstance(extra, Mapping):
        raise StorageError(f"{path}: extra = {extra!r}: must be a mapping")

    def count(key: str) -> int | None:
        value = extra.get(key)
        return value if isinstance(value, int) and 0 <= value < 2**63 else None

    mean = extra.get("mean_return")  # also on the card of a best agent that was pulled as the only one
    mean = float(mean) if isinstance(mean, (int, float)) else None
    return Origin(is_best or mean is not None, path, count(kind.counter), count("level"), mean, kind.unit)


def _checkpoint_network(path: Path, settings: SupervisedTrainingSettings) -> tuple[SequenceNetwork, dict[str, Any]]:
    """Returns the network of a supervised checkpoint with the mean weights, and a card like `save_network`'s."""
    groups, document = read_parts(path, SUPERVISED_CHECKPOINT)
    # "policy" has each tensor once, "average" has shared ones several times.
    names = {name: f"module.{name}" for name in groups["policy"]}
    mean = {name: groups["average"][averaged] for name, averaged in names.items() if averaged in groups["average"]}
    task = settings.make_task()

    def build() -> SequenceNetwork:
        return SequenceNetwork(settings.core_name, task.input_size, task.output_size, **settings.core_kwargs)

    network = build_filled(path, build, lambda planned: planned.core.state_size, mean)
    card = {"extra": {"task": document.get("task"), "sequences": document.get("sequences")}}
    return network.eval(), card
