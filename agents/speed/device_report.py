"""The report on a device: its versions, the outcomes of its tests, and the rows of its speed benchmark."""

import platform
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import torch

from ntm_rl.agents.speed.rows import Row
from ntm_rl.errors import InputError


def describe_device(device: torch.device) -> list[str]:
    """Returns lines on the device and the versions that its figures depend on."""
    lines = [f"Python {platform.python_version()}, torch {torch.__version__}"]
    if device.type != "cuda":
        return [f"{platform.machine()} CPU, {torch.get_num_threads()} threads", *lines]
    properties = torch.cuda.get_device_properties(device)
    memory = f"{properties.total_memory / 2**30:.0f} GiB"
    capability = f"compute capability {properties.major}.{properties.minor}"
    versions = f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, driver {_driver()}"
    return [f"{properties.name}, {memory}, {capability}", f"{versions}, {lines[0]}"]


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.split()[0]
    return "unknown"


def check_report(path: Path) -> None:
    """Raises an `InputError` if a report cannot be written; to be called before minutes of measurements."""
    try:
        with path.open("a", encoding="utf-8"):
            pass
    except OSError as error:
        raise InputError(f"report = {str(path)!r}: cannot be written: {error.strerror}") from error


def _append_section(path: Path, title: str, device: torch.device, lines: Iterable[str]) -> None:
    lines = [f"## {title}", "", *(f"- {line}" for line in describe_device(device)), "", *lines]
    _append(path, "\n".join(lines) + "\n")


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def append_speed(path: Path, device: torch.device, rows: Iterable[Row]) -> Iterator[Row]:
    """Appends each row of the speed benchmark to a table in a report when it is measured, and yields it."""
    _append_section(
        path, f"Speed on {device}", device, ["| row | ntm-rl | peer | unit | ratio |", "|---|---|---|---|---|"]
    )
    for row in rows:
        _append(path, f"| {row.name} | {row.ours:,.4g} | {row.peer:,.4g} | {row.unit} | {row.ratio:.3g} |\n")
        yield row
    _append(path, "\n")


def append_tests(path: Path, device: torch.device, counts: dict[str, int], failures: dict[str, str]) -> None:
    """Appends the outcomes of tests to a report.

    Args:
        path: The report.
        device: The device of the tests.
        counts: Number of tests by outcome.
        failures: Messages of the failed tests by their name.
    """
    lines = [", ".join(f"{count} {outcome}" for outcome, count in counts.items()) or "no tests"]
    for name, message in failures.items():
        lines += ["", f"### {name}", "", "```", *message.strip().splitlines(), "```"]
    _append_section(path, f"Tests on {device}", device, [*lines, ""])
