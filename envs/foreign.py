"""Errors of code that is not ours, told with the file and the line where they arose."""

import sysconfig
from pathlib import Path
from traceback import walk_tb
from types import FrameType

from ntm_rl.errors import InputError

CARRIERS = ("gymnasium", "stable_baselines3", "sb3_contrib", "ntm_rl", "importlib", "multiprocessing", "runpy")
LONGEST = 500  # characters of a foreign error's own text
CALLERS = 3  # frames of the user's code that are shown beside the last one
FOREIGN = (Exception, SystemExit)  # what foreign code may raise: SystemExit where it closes its window

Frame = tuple[str, int, str]  # file, line, function


class ForeignError(InputError):
    """An environment's own code raised an error, or broke Gymnasium's interface in mid-training.

    The command line prints it without a traceback and exits with code 5.
    """


def describe(error: BaseException) -> str:
    """Returns `file, line N, in function: Type: text` of an error, and who of the user's own code called that."""
    error = _origin(error)
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"[:LONGEST].removesuffix(": ")
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_short(error.filename)}, line {error.lineno}: {text}"
    frames = _frames(error)
    if not frames:
        return text
    callers = [f"\n    called from {_tell(frame)}" for frame in frames[-1 - CALLERS : -1]]
    return f"{_tell(frames[-1])}: {text}{''.join(reversed(callers))}"


def is_of_the_call(error: BaseException) -> bool:
    """Whether a TypeError is about the arguments of a call, and not from within what was called."""
    error = _origin(error)
    return isinstance(error, TypeError) and not _frames(error) and "argument" in str(error)


def has_place(error: BaseException) -> bool:
    """Whether an error arose in code that is neither ours nor that of the libraries that call it."""
    return bool(_frames(_origin(error)))


def _origin(error: BaseException) -> BaseException:
    """Returns the error that Gymnasium raised anew as another, or the error itself."""
    while not _frames(error) and (error.__cause__ or error.__context__):
        error = error.__cause__ or error.__context__ or error
    return error


def _frames(error: BaseException) -> list[Frame]:
    """Returns the user's frames, oldest first; the last of libraries where there are no others."""
    seen = [
        (frame.f_code.co_filename, line, frame.f_code.co_name)
        for frame, line in walk_tb(error.__traceback__)
        if not _is_carrier(frame)
    ]
    return [frame for frame in seen if not _is_library(frame[0])] or seen[-1:]


def _is_carrier(frame: FrameType) -> bool:
    """Whether a frame only leads to an environment's code: ours, Gymnasium's (but for its environments) and SB3's."""
    module = str(frame.f_globals.get("__name__", ""))
    if module.startswith("gymnasium.envs.") and module != "gymnasium.envs.registration":
        return False
    return module.partition(".")[0] in CARRIERS or frame.f_code.co_filename.startswith("<frozen importlib")


def _is_library(file: str) -> bool:
    return "site-packages" in file or "dist-packages" in file or file.startswith(sysconfig.get_path("stdlib"))


def _tell(frame: Frame) -> str:
    file, line, function = frame
    return f"{_short(file)}, line {line}, in {function}"


def _short(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file
