"""Imports users' modules, such as that of `module:id`, from their folder."""

import os
import sys
from importlib import import_module, invalidate_caches
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from ntm_rl.envs.foreign import FOREIGN, describe
from ntm_rl.errors import InputError, did_you_mean

MAX_LISTED = 20  # names in an error message

_added: set[str] = set()  # folders that this module added to sys.path


def split(env_id: str) -> tuple[str | None, str]:
    """Returns the module and the name in `module:name`; without a module, None and the id.

    Raises:
        InputError: the id is malformed.
    """
    module, colon, name = env_id.rpartition(":")
    if not colon:
        return None, env_id
    if not name or not all(part.isidentifier() for part in module.split(".")):
        raise InputError(
            f"env.id = {env_id!r}: must be like CartPole-v1, or my_module:MyEnv-v0 or my_module:MyClass for an "
            "environment of my_module.py"
        )
    return module, name


def folder_of(module: str | None) -> str | None:
    """Returns the absolute current folder if a module can only be imported from there, else None.

    Imports nothing.
    """
    if module is None:
        return None
    root, here = module.partition(".")[0], Path.cwd()
    invalidate_caches()  # the file may be new
    elsewhere = [each for each in sys.path if each not in _added and Path(each or ".").resolve() != here.resolve()]
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        spec = None if find is None else find(root, elsewhere if finder is PathFinder else None)
        if spec is not None and not _lies_in(spec, here, root):
            return None
    return str(here) if PathFinder.find_spec(root, [str(here)]) is not None else None


def _lies_in(spec: ModuleSpec, folder: Path, name: str) -> bool:
    """Whether a module is `name.py` or the package `name` in a folder."""
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or [])
    own = {folder / f"{name}.py", folder / name / "__init__.py", folder / name}
    return any(Path(place) in own for place in places)


def import_named(env_id: str, folder: str | None = None) -> None:
    """Imports the module of `module:id`, if any, also from `folder`.

    Raises:
        InputError: the module or folder does not exist, or the import fails.
    """
    module, _ = split(env_id)
    if module is not None:
        import_from(folder, module, f"env.id = {env_id!r}", "env.path")


def import_from(folder: str | None, module: str, label: str, path_key: str) -> None:
    """Imports a user's module.

    Args:
        folder: A folder to search after the installed packages.
        module: The module's dotted name.
        label: Key and value of the setting that names the module, for errors.
        path_key: Key of the setting that names the folder, for errors.

    Raises:
        InputError: there is no such module or folder, or the import fails.
    """
    if folder is not None:
        folder = os.path.expanduser(folder)
        _add_to_path(folder, module, path_key)
    try:
        loaded = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise InputError(f"{label}: {module} cannot be imported: {describe(error)}") from error
        raise InputError(f"{label}: {_not_found(module, folder, path_key)}") from error
    except FOREIGN as error:
        raise InputError(f"{label}: {module} cannot be imported: {describe(error)}") from error
    _require_folder(loaded, folder, path_key)


def spec_of_class(env_id: str) -> EnvSpec | None:
    """Returns the spec of the class in `module:Class`; None for a registered id or an id without a module.

    Raises:
        InputError: the module has no such id or class.
    """
    module, name = split(env_id)
    if module is None or name in gym.registry:
        return None
    loaded = sys.modules[module]
    if callable(getattr(loaded, name, None)):
        return EnvSpec(id=name, entry_point=f"{module}:{name}")
    ids = [each for each, spec in gym.registry.items() if _belongs_to(spec.entry_point, module)]
    classes = [each for each, value in vars(loaded).items() if _is_environment(value)]
    if "-v" in name and name.rpartition("-v")[0] in {each.rpartition("-v")[0] for each in gym.registry}:
        return None  # Gymnasium's own error lists the versions
    known = [*ids, *classes]
    listed = ", ".join(known[:MAX_LISTED]) + (", ..." if len(known) > MAX_LISTED else "")
    has = f"it has {listed}" if known else "it has no class derived from gymnasium.Env"
    raise InputError(
        f"env.id = {env_id!r}: {module} ({loaded.__file__}) registers no id and has no class {name!r}; {has}."
        f"{did_you_mean(name, known)}"
    )


def _add_to_path(folder: str, module: str, path_key: str) -> None:
    if not Path(folder).is_dir():
        raise InputError(
            f"{path_key} = {folder!r}: no such folder; set {path_key}, here or in the run's config.yaml, to the folder "
            f"of {_file_of(module)}"
        )
    if folder not in sys.path:
        sys.path.append(folder)  # last, so that it shadows no installed module
        _added.add(folder)


def _not_found(module: str, folder: str | None, path_key: str) -> str:
    searched = folder or str(Path.cwd())
    return (
        f"no module {module!r}: it is not installed, and {searched} has no {_file_of(module)}; run in the folder that "
        f"has it, or set {path_key} to that folder"
    )


def _file_of(module: str) -> str:
    return f"{module.replace('.', '/')}.py"


def _require_folder(loaded: ModuleType, folder: str | None, path_key: str) -> None:
    """Raises an `InputError` if the module was already imported from another folder."""
    root = sys.modules[loaded.__name__.partition(".")[0]]
    places = [*getattr(root, "__path__", []), *([root.__file__] if root.__file__ else [])]
    if folder is None or any(Path(place).resolve().is_relative_to(Path(folder).resolve()) for place in places):
        return
    raise InputError(
        f"{path_key} = {folder!r}: {loaded.__name__} is already imported from {places[0]}; rename one of them"
    )


def _belongs_to(entry_point: Any, module: str) -> bool:
    where = entry_point.partition(":")[0] if isinstance(entry_point, str) else getattr(entry_point, "__module__", "")
    return where == module or where.startswith(f"{module}.")


def _is_environment(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, gym.Env) and not value.__module__.startswith("gymnasium.")
