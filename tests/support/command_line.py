"""Commands run in this process, and what they print."""

import json
from typing import Any

from ntm_rl.agents.cli.main import main


def run(capsys: Any, *arguments: Any) -> tuple[int, str, str]:
    """Runs a command; returns its exit code, its output and its errors."""
    capsys.readouterr()
    code = main([*map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def done(capsys: Any, *arguments: Any) -> str:
    """Runs a command that succeeds; returns its output."""
    code, out, error = run(capsys, *arguments)
    assert code == 0, error
    return out


def as_json(capsys: Any, *arguments: Any) -> Any:
    """Runs a command that succeeds with `--json`; returns what it prints."""
    return json.loads(done(capsys, *arguments, "--json"))


def refused(capsys: Any, *arguments: Any) -> str:
    """Runs a command that is refused as invalid input; returns its one line of error."""
    code, out, error = run(capsys, *arguments)
    (line,) = error.splitlines()
    assert (code, out) == (2, "")
    return line
