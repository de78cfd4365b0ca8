"""The folder of a run: everything that a training leaves behind."""

import secrets
import string
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

import yaml

from ntm_rl.agents.settings import AnySettings, check_settings, to_yaml
from ntm_rl.agents.storage import WriteError, write_atomically
from ntm_rl.agents.tracking import STEPS, WandbWriter, start_wandb
from ntm_rl.errors import InputError


@dataclass(frozen=True)
class Run:
    """A run's folder: `<run_dir>/<config name>/<time>-seed<seed>-<4 random letters>/`."""

    path: Path

    @classmethod
    def create(cls, settings: AnySettings, config: str) -> Self:
        """Makes a new folder, never one that exists, and puts the resolved config into it.

        Raises:
            WriteError: no permission, or no space.
        """
        name = config.removesuffix(".yaml").removesuffix(".yml").replace("..", "").strip("/")
        name = Path(name).name if Path(config).suffix else name
        try:
            path = _make_new(Path(settings.run_dir) / name, settings.seed)
        except OSError as error:
            path = Path(settings.run_dir) / name
            raise WriteError(f"run_dir = {settings.run_dir!r}: {path} cannot be made: {error.strerror}") from error
        run = cls(path)
        write_atomically(run.config_file, to_yaml(settings).encode())
        return run

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Opens a run's folder.

        Raises:
            InputError: it is none.
        """
        run = cls(Path(folder))
        if not run.path.is_dir():
            raise InputError(f"run = {str(folder)!r}: no such folder")
        if not run.config_file.is_file():
            raise InputError(
                f"run = {str(folder)!r}: not a run: it has no config.yaml (a run's folder ends in -seed...)"
            )
        return run

    def settings(self) -> AnySettings:
        """Reads the run's resolved config.

        Raises:
            InputError: it was damaged or is not valid any more.
        """
        try:
            data = yaml.safe_load(self.config_file.read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise InputError(f"{self.config_file}: cannot be read: {error}") from error
        if not isinstance(data, dict):
            raise InputError(f"{self.config_file}: must be a mapping of keys to values")
        return check_settings(data, str(self.config_file))

    def track(self, settings: AnySettings, steps_key: str = STEPS) -> WandbWriter | None:
        """Starts, or goes on with, the run's W&B run; see `start_wandb`."""
        options = settings.tracking.model_dump()
        options["tags"] = tuple(options["tags"])
        return start_wandb(self.path, settings.model_dump(), mode=settings.wandb, steps_key=steps_key, **options)

    @property
    def config_file(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def agent(self) -> Path:
        """The finished agent."""
        return self.path / "agent"

    @property
    def best(self) -> Path:
        """The agent that had the best mean return."""
        return self.path / "best"


def _make_new(parent: Path, seed: int) -> Path:
    """Makes a run's folder, of a name that no other training of the same second has."""
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        # Not from the seeded generator: two trainings with one seed must not meet in one folder.
        letters = "".join(secrets.choice(string.ascii_lowercase) for _ in range(4))
        path = parent / f"{datetime.now():%Y%m%d-%H%M%S}-seed{seed}-{letters}"
        with suppress(FileExistsError):
            path.mkdir()
            return path
