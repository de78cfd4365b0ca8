"""The one way from a run's folder to what it has trained: used by evaluate, record, inspect and by users."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ntm_rl.agents.policy.files import LoadedAgent, checkpoint_agent, load_agent
from ntm_rl.agents.policy.network_files import load_network
from ntm_rl.agents.policy.sequence_network import SequenceNetwork
from ntm_rl.agents.runs.run import Run
from ntm_rl.agents.settings.paths import shown
from ntm_rl.agents.settings.schema import PpoTrainingSettings, SupervisedTrainingSettings
from ntm_rl.agents.storage.cards import KIND, WEIGHTS
from ntm_rl.agents.storage.checkpoints import newer_checkpoint
from ntm_rl.agents.storage.files import StorageError
from ntm_rl.agents.storage.planning import build_filled
from ntm_rl.agents.storage.tensors import read_tensors
from ntm_rl.errors import InputError

Which = Literal["last", "best"]
AVERAGE = "average.module."  # what the names of a supervised checkpoint's mean weights begin with


@dataclass(frozen=True)
class Origin:
    """Where an agent or network comes from.

    Attributes:
        which: The last of its training, or the best.
        path: Folder of the agent, or file of the checkpoint.
        step: Environment steps, or sequences, that it was trained on; None where its card does not say.
        level: That it reached in its curriculum; None without one.
        mean_return: Of the best agent's last episodes in training; None for others.
        unit: What a step is.
    """

    which: Which
    path: Path
    step: int | None
    level: int | None = None
    mean_return: float | None = None
    unit: Literal["step", "sequence"] = "step"

    @property
    def is_checkpoint(self) -> bool:
        """Whether it comes from a checkpoint, and not from an agent that the training wrote out."""
        return self.path.is_file()

    def __str__(self) -> str:
        parts = [
            f"of an unknown {self.unit}" if self.step is None else f"{self.unit} {self.step:,}",
            *([] if self.level is None else [f"level {self.level}"]),
            *([] if self.mean_return is None else [f"mean return {self.mean_return:g} in training"]),
            "from a checkpoint" if self.is_checkpoint else "as written out by the training",
        ]
        return f"the {self.which} agent: {', '.join(parts)} ({self.path})"

    def row(self) -> dict[str, Any]:
        """Returns it as JSON values."""
        return {"agent": self.which, "source": shown(self.path), "step": self.step, "level": self.level}


@dataclass(frozen=True)
class RunAgent(LoadedAgent):
    """An agent of a run, ready to act, and where it comes from."""

    origin: Origin


def load_run_agent(run: Run | Path | str, which: Which = "last", device: str | None = None) -> RunAgent:
    """Loads a run's agent with its normalisation statistics; no environment is made.

    The last agent is the one that the training wrote out when it ended, or that of a checkpoint where there is a newer
    one (a training under way, or killed).

    Args:
        run: A run, or its folder.
        which: "last", or "best": that with the best mean return of the training.
        device: Where it computes; None: as the run's config says, on the CPU where this machine has no such device.

    Raises:
        InputError: no such run or agent, or a damaged one.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    settings = run.settings()
    if not isinstance(settings, PpoTrainingSettings):
        raise InputError(f"run = {str(run.path)!r}: a supervised run has no agent; see load_run_network")
    where = available_device(settings.device) if device is None else device
    path = _choose(run, which, "timesteps")
    agent = checkpoint_agent(path, where) if path.is_file() else load_agent(path, where)
    return RunAgent(agent.policy, agent.card, agent.statistics, _origin(which, path, agent.card, "timesteps"))


def load_run_network(run: Run | Path | str, which: Which = "last") -> tuple[SequenceNetwork, Origin]:
    """Loads a supervised run's network on the CPU: the mean of its weights, as validated; see `load_run_agent`.

    Raises:
        InputError: no such run or network, a damaged one, or one of another task.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    settings = run.settings()
    if not isinstance(settings, SupervisedTrainingSettings):
        raise InputError(f"run = {str(run.path)!r}: not a supervised run; see load_run_agent")
    path = _choose(run, which, "sequences")
    if path.is_file():
        network, card = _checkpoint_network(path, settings)
    else:
        network, card = load_network(path)
    origin = _origin(which, path, card, "sequences")
    task = card.get("extra", {}).get("task")
    if task != settings.task.name:
        raise InputError(f"{path}: a network of task {task!r}; the run's config says {settings.task.name!r}")
    return network, origin


def available_device(device: str) -> torch.device:
    """Returns a device of a config, or the CPU, with a note, where this machine does not have it."""
    if device.startswith("cuda"):
        number = int(device.partition(":")[2] or 0)
        is_there = torch.cuda.is_available() and number < torch.cuda.device_count()
    else:
        is_there = device != "mps" or torch.backends.mps.is_available()
    if not is_there:
        print(f"note: device = {device!r} in the run's config is not on this machine: on the CPU", file=sys.stderr)
        return torch.device("cpu")
    return torch.device(device) if device != "auto" else torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _choose(run: Run, which: Which, counter: str) -> Path:
    """Returns the folder of an agent or the file of a checkpoint."""
    if which == "best":
        if not run.best.is_dir():
            raise InputError(
                f"run = {str(run.path)!r}: it has no best agent yet, which takes as many ended episodes as the mean is "
                "over, or a validation; leave out --best for the last one"
            )
        return run.best
    written = run.agent if run.agent.is_dir() else None
    checkpoint = newer_checkpoint(run.checkpoints, -1 if written is None else _step_of(written, counter))
    path = checkpoint or written
    if path is None:
        raise InputError(
            f"{run.checkpoints}: no usable checkpoint, and no agent in {run.agent}; a training writes the first "
            "checkpoint after checkpoint.every steps"
        )
    return path


def _step_of(folder: Path, counter: str) -> int:
    """Returns of what step an agent is; that of one which does not say counts as newer than any checkpoint."""
    extra = read_tensors(folder / WEIGHTS)[1].get("extra")
    step = extra.get(counter) if isinstance(extra, Mapping) else None
    return step if isinstance(step, int) else sys.maxsize


def _origin(which: Which, path: Path, card: Mapping[str, Any], counter: str) -> Origin:
    extra = card.get("extra", {})
    if not isinstance(extra, Mapping):
        raise StorageError(f"{path}: extra = {extra!r}: must be a mapping")

    def whole(key: str) -> int | None:
        value = extra.get(key)
        return value if isinstance(value, int) and 0 <= value < 2**63 else None

    mean = extra.get("mean_return") if which == "best" else None
    mean = float(mean) if isinstance(mean, (int, float)) else None
    return Origin(which, path, whole(counter), whole("level"), mean, "step" if counter == "timesteps" else "sequence")


def _checkpoint_network(path: Path, settings: SupervisedTrainingSettings) -> tuple[SequenceNetwork, dict[str, Any]]:
    """Returns the network of a supervised checkpoint, with the mean weights, and a card as `save_network` writes it."""
    tensors, document = read_tensors(path)
    if document.get("kind") != KIND:
        raise StorageError(f"{path}: not a {KIND}")
    # The network's own names come once, the mean's also where two parts share a tensor.
    own = {name.removeprefix("policy.") for name in tensors if name.startswith("policy.")}
    mean = {name: tensors[AVERAGE + name] for name in own if AVERAGE + name in tensors}
    task = settings.make_task()

    def build() -> SequenceNetwork:
        return SequenceNetwork(settings.core, task.input_size, task.output_size, **settings.core_kwargs)

    network = build_filled(path, build, lambda planned: planned.core.state_size, mean)
    card = {"extra": {"task": document.get("task"), "sequences": document.get("sequences")}}
    return network.eval(), card
