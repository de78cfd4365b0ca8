"""What all tests share; helpers that are no fixtures lie in `support/`."""

import signal

import pytest
import torch


@pytest.fixture
def in_an_empty_folder(tmp_path, monkeypatch):
    """An empty working folder, and no other configuration of the user; torch's threads stay as they are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / ".config"))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def default_signals():
    """Signals that `nohup` or a background job ignores, which child processes would inherit, have their defaults."""
    ignored = [number for number in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
