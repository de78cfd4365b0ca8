"""Whether a run that imports a module was made here: code that somebody else put into a folder is not run unasked.

The module's name and folder stand in the run's config, and `origin.json` holds a digest of them under a key that only
this user can read. Who gives a run away does not know the reader's key, and who changes the config cannot renew the
digest.
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
from ntm_rl.agents.settings.schema import PpoTrainingSettings
from ntm_rl.agents.storage.files import write_atomically
from ntm_rl.errors import InputError

ORIGIN = "origin.json"
KEY_BYTES = 32


def imported(settings: AnySettings) -> str | None:
    """Returns what playing a run imports beside installed packages, None for nothing."""
    if not isinstance(settings, PpoTrainingSettings):
        return None
    module, colon, _ = settings.env.id.partition(":")
    folder = getattr(settings.env, "path", None)
    if not colon and folder is None:
        return None
    return json.dumps([module if colon else None, None if folder is None else str(folder)])


def sign(run: Path, settings: AnySettings) -> None:
    """Marks a run as made here, if it imports anything; a warning where this user's key cannot be kept."""
    what = imported(settings)
    if what is None:
        return
    try:
        key = _key(make=True)
    except OSError as error:
        warnings.warn(f"{_key_file()}: cannot be made ({error}); this run will ask for --trust", stacklevel=2)
        return
    write_atomically(run / ORIGIN, json.dumps({"digest": _digest(key, what)}).encode())


def require_trust(run: Path, settings: AnySettings, *, trust: bool) -> None:
    """Makes sure that a run which imports a module was made by this user, or is trusted.

    Raises:
        InputError: neither.
    """
    what = imported(settings)
    if what is None or trust or _is_signed(run, what):
        return
    module, folder = json.loads(what)
    code = f"module {module!r}" + (f" from {folder}" if folder else "") if module else f"code from {folder}"
    raise InputError(
        f"run = {str(run)!r}: it imports {code}, which runs that code, and the run was not made by you on this machine "
        "(or its env.id or env.path was changed since); if you trust that code, add --trust"
    )


def _is_signed(run: Path, what: str) -> bool:
    try:
        with (run / ORIGIN).open("rb") as file:
            digest = json.loads(file.read(1000))["digest"]
        return hmac.compare_digest(_digest(_key(make=False), what), str(digest))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _digest(key: bytes, what: str) -> str:
    return hmac.new(key, what.encode(), hashlib.sha256).hexdigest()


def _key_file() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")) / "ntm-rl" / "key"


def _key(*, make: bool) -> bytes:
    """Returns this user's key, made at its first use if `make`.

    Raises:
        OSError: there is none, or it cannot be kept.
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
        with suppress(FileExistsError):  # another training's, of the same moment
            os.link(temporary, path)
        temporary.unlink()
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise OSError(f"{path}: not a key; delete it")
    return key
