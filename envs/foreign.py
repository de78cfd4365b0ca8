"""Describes errors of third-party code with the file and line that raised them."""

import sysconfig
from pathlib import Path
from traceback import walk_tb
from types import FrameType

from ntm_rl.errors import InputError

INTERNAL_PACKAGES = ("gymnasium", "stable_baselines3", "sb3_contrib", "ntm_rl", "importlib", "multiprocessing", "runpy")
MAX_TEXT = 500  # characters of an error's own text
MAX_CALLERS = 3  # frames shown besides the last one
FOREIGN = (Exception, SystemExit)  # raised by third-party code; some environments exit when their window closes

Frame = tuple[str, int, str]  # file, line, function


class ForeignError(InputError):
    """An environment's own code raised an error, or violated Gymnasium's interface after the first step.

    The command line prints it without a traceback and exits with code 5.
    """


def describe(error: BaseException) -> str:
    """Returns `file, line N, in function: Type: text` of an error, and its callers in the user's code."""
    error = _origin(error)
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"[:MAX_TEXT].removesuffix(": ")
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_short(error.filename)}, line {error.lineno}: {text}"
    frames = _frames(error)
    if not frames:
        return text
    callers = [f"\n    called from {_location(frame)}" for frame in frames[-1 - MAX_CALLERS : -1]]
    return f"{_location(frames[-1])}: {text}{''.join(reversed(callers))}"


def describe_call(method: str, error: BaseException) -> str:
    """Returns the description of an error that the call of an environment's method raised."""
    if isinstance(error, TypeError) and "not callable" in str(error) and not is_in_user_code(error):
        return f"{method} must be a method: {error}"
    return f"{method} raised an error: {describe(error)}"


def is_wrong_call(error: BaseException) -> bool:
    """Whether an error is the `TypeError` of a call with wrong arguments, and not one from inside the function."""
    error = _origin(error)
    return isinstance(error, TypeError) and not _frames(error) and "argument" in str(error)


def is_in_user_code(error: BaseException) -> bool:
    """Whether an error arose in code outside this package and the libraries that it calls environments through."""
    return bool(_frames(_origin(error)))


def _origin(error: BaseException) -> BaseException:
    """Returns the error that Gymnasium re-raised as another, or the error itself."""
    while not _frames(error) and (error.__cause__ or error.__context__):
        error = error.__cause__ or error.__context__ or error
    return error


def _frames(error: BaseException) -> list[Frame]:
    """Returns the frames of the user's code, oldest first; without any, the last frame of a library."""
    frames = [
        (frame.f_code.co_filename, line, frame.f_code.co_name)
        for frame, line in walk_tb(error.__traceback__)
        if not _is_internal(frame)
    ]
    return [frame for frame in frames if not _is_library(frame[0])] or frames[-1:]


def _is_internal(frame: FrameType) -> bool:
    """Whether a frame only calls an environment: of this package, SB3 or Gymnasium, except its own environments."""
    module = str(frame.f_globals.get("__name__", ""))
    if module.startswith("gymnasium.envs.") and module != "gymnasium.envs.registration":
        return False
    return module.partition(".")[0] in INTERNAL_PACKAGES or frame.f_code.co_filename.startswith("<frozen importlib")


def _is_library(file: str) -> bool:
    return "site-packages" in file or "dist-packages" in file or file.startswith(sysconfig.get_path("stdlib"))


def _location(frame: Frame) -> str:
    file, line, function = frame
    return f"{_short(file)}, line {line}, in {function}"


def _short(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file
