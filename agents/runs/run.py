"""The folder of a run: everything that a training writes."""

import secrets
import string
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from ntm_rl.agents.runs.changes import HISTORY, Changes, find_changes, refuse_fixed, write_history
from ntm_rl.agents.runs.ownership import OWNER, owned
from ntm_rl.agents.runs.trust import ORIGIN, require_trust, sign
from ntm_rl.agents.settings.loading import AnySettings, check_settings, to_yaml, validate
from ntm_rl.agents.settings.paths import user_path
from ntm_rl.agents.settings.schema import PpoTrainingSettings, SupervisedTrainingSettings
from ntm_rl.agents.settings.yaml_text import YamlError, read_bounded, read_yaml
from ntm_rl.agents.storage.checkpoints import latest_checkpoint
from ntm_rl.agents.storage.files import WriteError, make_folder, refuse_links, write_atomically
from ntm_rl.agents.tracking.wandb_run import start_wandb
from ntm_rl.agents.tracking.wandb_writer import WandbWriter
from ntm_rl.errors import InputError

# Written by a training. Links in wandb/ are W&B's own: it replaces them and follows none.
FILES = ("config.yaml", HISTORY, ORIGIN, OWNER, "progress.csv", "wandb", "wandb/sent_steps")
FOLDERS = ("tensorboard", "checkpoints", "agent", "best")


@dataclass(frozen=True)
class Run:
    """A run's folder: `<run_dir>/<config name>/<time>-seed<seed>-<4 random letters>/`.

    Attributes:
        path: Absolute and without links, so that the spelling of a path does not matter.
    """

    path: Path

    @classmethod
    def create(cls, settings: AnySettings, config: str) -> Self:
        """Makes a new folder, never an existing one, and writes the resolved config into it.

        Raises:
            WriteError: no permission, or no space.
        """
        name = config.removesuffix(".yaml").removesuffix(".yml").replace("..", "").replace(":", "-").strip("/")
        name = Path(name).name if Path(config).suffix else name
        path = Path(settings.run_dir) / name
        try:
            path = _make_new(path.resolve(), settings.seed)
        except OSError as error:
            raise WriteError(f"run_dir = {settings.run_dir!r}: {path} cannot be made: {error.strerror}") from error
        run = cls(path)
        write_atomically(run.config_file, to_yaml(settings).encode())
        sign(run.path, settings)
        return run

    @classmethod
    def open(cls, folder: str | Path, key: str = "run") -> Self:
        """Opens a run's folder.

        Args:
            folder: The folder.
            key: Name in error messages.

        Raises:
            InputError: it is not a run's folder.
        """
        try:
            run = cls(user_path(key, folder).resolve())
            is_folder, has_config = run.path.is_dir(), run.config_file.is_file()
        except (OSError, RuntimeError) as error:  # links in a circle, a name that is too long, no permission
            raise InputError(f"{key} = {str(folder)!r}: {getattr(error, 'strerror', None) or error}") from error
        if not is_folder:
            found = "is a file" if run.path.exists() else "no such folder"
            raise InputError(f"{key} = {str(folder)!r}: {found}; a run is the folder whose path `ntm-rl train` prints")
        if not has_config:
            raise InputError(
                f"{key} = {str(folder)!r}: not a run: it has no config.yaml (a run's folder ends in -seed...)"
            )
        return run

    def settings(self) -> AnySettings:
        """Reads the run's resolved config.

        Raises:
            InputError: it is damaged or no longer valid.
        """
        return check_settings(self._data(), str(self.config_file))

    def ppo_settings(self) -> PpoTrainingSettings:
        """Reads the resolved config of a PPO run.

        Raises:
            InputError: as `settings`, or the run is a supervised one.
        """
        settings = self.settings()
        if not isinstance(settings, PpoTrainingSettings):
            raise InputError(
                f"run = {str(self.path)!r}: a supervised run plays no episodes and has no agent; use "
                "evaluate_supervised, load_run_network or `ntm-rl inspect`"
            )
        return settings

    def supervised_settings(self) -> SupervisedTrainingSettings:
        """Reads the resolved config of a supervised run.

        Raises:
            InputError: as `settings`, or the run is one of PPO.
        """
        settings = self.settings()
        if not isinstance(settings, SupervisedTrainingSettings):
            raise InputError(f"run = {str(self.path)!r}: not a supervised run; use evaluate or load_run_agent")
        return settings

    def changes(self, settings: AnySettings) -> Changes:
        """Returns the keys in which settings differ from the run's config, with the old and the new value.

        Raises:
            InputError: a change that can have no effect on a resumed training.
        """
        # Without check_settings: the old config may name a device that this machine lacks.
        changes = find_changes(validate(self._data(), str(self.config_file)).model_dump(), settings.model_dump())
        refuse_fixed(changes)
        return changes

    def apply(self, changes: Changes, settings: AnySettings, step: int) -> None:
        """Writes changed settings into the run's config, and the changes into its history.

        Raises:
            InputError: a file cannot be read or written.
        """
        if changes:
            write_history(self.path, changes, step)
            write_atomically(self.config_file, to_yaml(settings).encode())
        sign(self.path, settings)

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Makes this process the only one that trains the run; see `ownership.owned`.

        Raises:
            InputError: another process trains it, or a file or folder to be written is a link.
        """
        refuse_links(self.path, FILES, FOLDERS)
        with owned(self.path):
            yield

    def make_folder(self, name: str) -> Path:
        """Returns a folder of the run for files that no training writes, such as figures; made if missing.

        Raises:
            InputError: it is a link, or there is one in it.
            WriteError: no permission.
        """
        refuse_links(self.path, (), (name,))
        make_folder(self.path / name)
        return self.path / name

    def require_trust(self, settings: AnySettings | None = None, *, trust: bool) -> None:
        """Makes sure that the run imports no module of another user without consent.

        Args:
            settings: The settings to use in place of the run's config; a module that only they name is trusted.
            trust: Whether the user trusts the run.

        Raises:
            InputError: the run names a module, was not made by this user, and is not trusted.
        """
        own = validate(self._data(), str(self.config_file))
        if settings is None or settings.user_modules == own.user_modules:
            require_trust(self.path, own, trust=trust)

    def _data(self) -> dict[str, Any]:
        try:
            data = read_yaml(read_bounded(self.config_file))
        except (OSError, UnicodeDecodeError, YamlError) as error:
            raise InputError(f"{self.config_file}: cannot be read: {error}") from error
        if not isinstance(data, dict):
            raise InputError(f"{self.config_file}: must be a mapping of keys to values")
        return data

    def track(self, settings: AnySettings, *, is_training: bool = True) -> WandbWriter | None:
        """Starts or resumes the run's W&B run; see `start_wandb`."""
        options = settings.tracking.model_dump()
        options["tags"] = tuple(options["tags"])
        options |= {"mode": settings.wandb, "steps_key": settings.kind.steps_metric, "is_training": is_training}
        return start_wandb(self.path, settings.model_dump(), **options)

    @property
    def config_file(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint that passes its checks."""
        with suppress(InputError):
            latest_checkpoint(self.checkpoints)
            return True
        return False

    @property
    def agent(self) -> Path:
        """The agent at the end of the training."""
        return self.path / "agent"

    @property
    def best(self) -> Path:
        """The agent with the best score."""
        return self.path / "best"


def runs_of(folder: Path, seed: int) -> list[Run]:
    """Returns the runs with a seed in a config's folder, newest first."""
    folders = sorted(folder.glob(f"*-seed{seed}-????"), reverse=True)
    return [run for run in map(Run, folders) if run.config_file.is_file()]


def _make_new(parent: Path, seed: int) -> Path:
    """Makes a run's folder with a unique name."""
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        # Not from the seeded generator: two trainings with the same seed need different folders.
        letters = "".join(secrets.choice(string.ascii_lowercase) for _ in range(4))
        path = parent / f"{datetime.now():%Y%m%d-%H%M%S}-seed{seed}-{letters}"
        with suppress(FileExistsError):
            path.mkdir()
            return path
