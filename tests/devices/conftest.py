"""The devices on which the tests of this folder run: a GPU, and everywhere a device that stands in for one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ntm_rl.agents.speed.device_report import append_tests
from ntm_rl.kernels.compiler import BuildError
from stand_in_device import load_stand_in


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--report", type=Path, help="append the outcomes to a report")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    path = config.getoption("--report")
    if path is None:
        return
    outcomes = {name: terminalreporter.stats.get(name, []) for name in ("passed", "failed", "error", "skipped")}
    failed = [*outcomes["failed"], *outcomes["error"]]
    messages = {report.nodeid: getattr(report.longrepr, "reprcrash", report.longrepr) for report in failed}
    append_tests(
        path,
        torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        {name: len(reports) for name, reports in outcomes.items() if reports},
        {name: str(getattr(message, "message", message)) for name, message in messages.items()},
    )


@pytest.fixture(params=[pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("stand_in", "cuda")])
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device; results on it are compared with those of the CPU."""
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("torch sees no CUDA device")
        return torch.device("cuda", 0)
    try:
        name = load_stand_in()
    except BuildError as error:
        pytest.skip(f"the stand-in cannot be built: {error}")
    request.getfixturevalue("monkeypatch").setattr(nn.Module, "_apply", _in_place(nn.Module._apply))
    return torch.device(name, 0)


def _in_place(apply: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Lets a module that moves keep its parameters, which an optimizer has, as torch does for a GPU."""

    def apply_in_place(*arguments: Any) -> nn.Module:
        before = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            return apply(*arguments)
        finally:
            torch.__future__.set_swap_module_params_on_conversion(before)

    return apply_in_place


@pytest.fixture(autouse=True)
def one_seed():
    torch.manual_seed(0)
