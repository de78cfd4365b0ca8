"""Asks for consent before code is imported that a run made by another user names.

The run's config has the names and folders of its modules, and `origin.json` has their HMAC under a key that only this
user can read. Neither another user's key nor a changed config gives the same digest.
"""

import hashlib
import hmac
import json
import os
import secrets
import warnings
from contextlib import suppress
from pathlib import Path

from ntm_rl.agents.settings.loading import AnySettings
from ntm_rl.agents.settings.schema import UserModules
from ntm_rl.agents.storage.files import write_atomically
from ntm_rl.errors import InputError

ORIGIN = "origin.json"
KEY_BYTES = 32


def sign(run: Path, settings: AnySettings) -> None:
    """Marks a run that imports a module as made by this user; warns if this user's key cannot be stored."""
    if not settings.user_modules:
        return
    try:
        key = _key(make=True)
    except OSError as error:
        warnings.warn(f"{_key_file()}: cannot be made ({error}); this run will ask for --trust", stacklevel=2)
        return
    write_atomically(run / ORIGIN, json.dumps({"digest": _digest(key, settings.user_modules)}).encode())


def require_trust(run: Path, settings: AnySettings, *, trust: bool) -> None:
    """Makes sure that a run that imports a module was made by this user or is trusted.

    Raises:
        InputError: it is neither.
    """
    if not settings.user_modules or trust or _is_signed(run, settings.user_modules):
        return
    code = " and ".join(
        f"module {module!r}" + (f" from {folder}" if folder else "") if module else f"code from {folder}"
        for module, folder in settings.user_modules
    )
    raise InputError(
        f"run = {str(run)!r}: it imports {code}, which runs that code, and the run was not made by you on this machine "
        "(or its env.id, env.path, core or core_path has changed since); if you trust that code, add --trust"
    )


def _is_signed(run: Path, modules: UserModules) -> bool:
    try:
        with (run / ORIGIN).open("rb") as file:
            digest = json.loads(file.read(1000))["digest"]
        return hmac.compare_digest(_digest(_key(make=False), modules), str(digest))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _digest(key: bytes, modules: UserModules) -> str:
    return hmac.new(key, json.dumps([each for pair in modules for each in pair]).encode(), hashlib.sha256).hexdigest()


def _key_file() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")) / "ntm-rl" / "key"


def _key(*, make: bool) -> bytes:
    """Returns this user's key; with `make`, makes it at its first use.

    Raises:
        OSError: there is none, or it cannot be stored.
    """
    path = _key_file()
    if not path.is_absolute():
        raise OSError("there is no home folder")
    if make and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = path.with_name(f".key.{os.getpid()}.{secrets.token_hex(4)}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, secrets.token_bytes(KEY_BYTES))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        with suppress(FileExistsError):  # another training made it at the same moment
            os.link(temporary, path)
        temporary.unlink()
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise OSError(f"{path}: not a key; delete it")
    return key
