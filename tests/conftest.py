"""What all tests share; helpers that are no fixtures lie in `support/`."""

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
