import pytest


@pytest.fixture
def run_dir(tmp_path):
    path = tmp_path / "task" / "20260101-000000-seed0-abcd"
    path.mkdir(parents=True)
    return path
