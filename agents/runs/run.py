"""The folder of a run: everything that a training leaves behind."""

import secrets
import string
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from ntm_rl.agents.runs.changes import HISTORY, changes, refuse_fixed, write_history
from ntm_rl.agents.runs.origin import ORIGIN, imported, require_trust, sign
from ntm_rl.agents.runs.ownership import OWNER, owned
from ntm_rl.agents.settings.loading import AnySettings, check_settings, to_yaml, validate
from ntm_rl.agents.settings.paths import user_path
from ntm_rl.agents.settings.yaml_text import YamlError, read_bounded, read_yaml
from ntm_rl.agents.storage.files import WriteError, make_folder, refuse_links, write_atomically
from ntm_rl.agents.tracking.metrics import STEPS
from ntm_rl.agents.tracking.wandb_run import start_wandb
from ntm_rl.agents.tracking.wandb_writer import WandbWriter
from ntm_rl.errors import InputError

# What a training writes; W&B replaces the links that it makes in its folder, and follows none.
FILES = ("config.yaml", HISTORY, ORIGIN, OWNER, "progress.csv", "wandb", "wandb/sent_steps")
FOLDERS = ("tensorboard", "checkpoints", "agent", "best")


@dataclass(frozen=True)
class Run:
    """A run's folder: `<run_dir>/<config name>/<time>-seed<seed>-<4 random letters>/`.

    Attributes:
        path: Absolute and without links, so that the run is the same one however its path was written.
    """

    path: Path

    @classmethod
    def create(cls, settings: AnySettings, config: str) -> Self:
        """Makes a new folder, never one that exists, and puts the resolved config into it.

        Raises:
            WriteError: no permission, or no space.
        """
        name = config.removesuffix(".yaml").removesuffix(".yml").replace("..", "").strip("/")
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
    def open(cls, folder: str | Path) -> Self:
        """Opens a run's folder.

        Raises:
            InputError: it is none.
        """
        try:
            run = cls(user_path("run", folder).resolve())
            is_folder, has_config = run.path.is_dir(), run.config_file.is_file()
        except (OSError, RuntimeError) as error:  # links in a circle, a name that is too long, no permission
            raise InputError(f"run = {str(folder)!r}: {getattr(error, 'strerror', None) or error}") from error
        if not is_folder:
            raise InputError(f"run = {str(folder)!r}: {'is a file' if run.path.exists() else 'no such folder'}")
        if not has_config:
            raise InputError(
                f"run = {str(folder)!r}: not a run: it has no config.yaml (a run's folder ends in -seed...)"
            )
        return run

    def settings(self) -> AnySettings:
        """Reads the run's resolved config.

        Raises:
            InputError: it was damaged or is not valid any more.
        """
        return check_settings(self._data(), str(self.config_file))

    def changes(self, settings: AnySettings) -> dict[str, tuple[Any, Any]]:
        """Returns in which keys settings differ from the run's config, with the old and the new value.

        Raises:
            InputError: a change that could have no effect on a training under way.
        """
        # Checked key by key alone: what the old values say together, such as a device that is not here, is over.
        changed = changes(validate(self._data(), str(self.config_file)).model_dump(), settings.model_dump())
        refuse_fixed(changed)
        return changed

    def change(self, settings: AnySettings, changed: Mapping[str, tuple[Any, Any]], step: int) -> None:
        """Makes changed settings the run's config, for every later resume too, and keeps a record of the change.

        Raises:
            InputError: a file cannot be read or written.
        """
        if changed:
            write_history(self.path, changed, step)
            write_atomically(self.config_file, to_yaml(settings).encode())
        sign(self.path, settings)

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Makes this process the only one that trains the run; see `ownership.owned`.

        Raises:
            InputError: another process trains it, or what would be written into is a link.
        """
        refuse_links(self.path, FILES, FOLDERS)
        with owned(self.path):
            yield

    def make_folder(self, name: str) -> Path:
        """Makes a folder in the run's for files that no training writes, if it is missing, and returns its path.

        Raises:
            InputError: it is a link, or there is one in it.
            WriteError: no permission.
        """
        refuse_links(self.path, (), (name,))
        make_folder(self.path / name)
        return self.path / name

    def require_trust(self, settings: AnySettings | None = None, *, trust: bool) -> None:
        """Makes sure that the run imports nothing of others unasked; `settings` are those that it is played with.

        Raises:
            InputError: it names a module, was not made by this user, and is not trusted.
        """
        mine = validate(self._data(), str(self.config_file))
        if settings is None or imported(settings) == imported(mine):  # else the caller named the module
            require_trust(self.path, mine, trust=trust)

    def _data(self) -> dict[str, Any]:
        try:
            data = read_yaml(read_bounded(self.config_file))
        except (OSError, UnicodeDecodeError, YamlError) as error:
            raise InputError(f"{self.config_file}: cannot be read: {error}") from error
        if not isinstance(data, dict):
            raise InputError(f"{self.config_file}: must be a mapping of keys to values")
        return data

    def track(self, settings: AnySettings, steps_key: str = STEPS, *, is_training: bool = True) -> WandbWriter | None:
        """Starts, or goes on with, the run's W&B run; see `start_wandb`."""
        options = settings.tracking.model_dump()
        options["tags"] = tuple(options["tags"])
        options |= {"mode": settings.wandb, "steps_key": steps_key, "is_training": is_training}
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
