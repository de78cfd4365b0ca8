"""User modules: import from the current folder or another one, and errors if they are missing."""

import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest

from ntm_rl.envs import EnvSettings, make_env, modules
from ntm_rl.envs.modules import folder_of, import_named, split
from ntm_rl.errors import InputError

SOURCE = """
import gymnasium as gym, numpy as np
class Coin(gym.Env):
    def __init__(self, sides=2, render_mode=None):
        if sides < 2:
            raise ValueError("too few sides")
        self.observation_space, self.action_space = gym.spaces.Box(-1, 1, (3,)), gym.spaces.Discrete(sides)
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(3, np.float32), {}
    def step(self, action):
        return np.zeros(3, np.float32), 1.0, False, False, {}
gym.register("Coin-v0", entry_point=f"{__name__}:Coin")
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module into the current folder, which is empty else; what it registers and imports is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    monkeypatch.setattr(modules, "_added", set())
    monkeypatch.setattr(gym.envs.registration, "registry", dict(gym.registry))
    monkeypatch.setattr(gym, "registry", gym.envs.registration.registry)
    before = set(sys.modules)
    name = f"own_{tmp_path.name.replace('-', '_')}"

    def write(source=SOURCE, suffix="") -> str:
        Path(f"{name}{suffix}.py").write_text(source)
        return f"{name}{suffix}"

    yield write
    for each in set(sys.modules) - before:
        if each.startswith("own_"):
            del sys.modules[each]


def test_a_registered_id_and_a_class_are_made_from_the_folder(module, tmp_path, monkeypatch):
    name = module()
    assert folder_of(name) == str(tmp_path)
    monkeypatch.chdir("/")
    for what, sides in (("Coin-v0", 2), ("Coin", 5)):
        env = make_env(EnvSettings(f"{name}:{what}", {"sides": sides}, path=str(tmp_path), max_episode_steps=3))
        assert env.action_space.n == sides
        env.reset(seed=0)
        assert [env.step(0)[3] for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize("name", [None, "minigrid", "nowhere"])
def test_installed_and_missing_modules_have_no_folder(name, module):
    assert folder_of(name) is None


def test_a_tilde_in_the_folder_is_the_home_folder(module, tmp_path, monkeypatch):
    name = module()
    monkeypatch.chdir("/")
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    make_env(EnvSettings(f"{name}:Coin", path=f"~/{tmp_path.name}"))


def test_the_folder_shadows_no_installed_module(module, tmp_path):
    Path("colorsys.py").write_text("raise RuntimeError")
    import_named(f"{module()}:Coin", str(tmp_path))
    assert sys.path[-1] == str(tmp_path)
    command = f"import sys; sys.path.append({str(tmp_path)!r}); import colorsys"
    subprocess.run([sys.executable, "-c", command], check=True, cwd="/")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import nonexistent_thing", r"cannot be imported: own_\w+.py, line 1, in <module>: .*'nonexistent_thing'"),
        ("x = 1\n1 / 0", r"cannot be imported: own_\w+.py, line 2, in <module>: ZeroDivisionError"),
        ("x = (", r"cannot be imported: own_\w+.py, line 1: SyntaxError"),
        ("x = 1", r"registers no id and has no class 'Coin'; it has no class derived from gymnasium.Env"),
        (SOURCE.replace("Coin", "Dice"), r"has no class 'Coin'; it has Dice-v0, Dice."),
        ("raise SystemExit(2)", r"line 1, in <module>: SystemExit: 2"),
    ],
)
def test_a_failing_module_is_reported_with_its_line_or_its_contents(module, tmp_path, source, message):
    with pytest.raises(InputError, match=message):
        make_env(EnvSettings(f"{module(source)}:Coin", path=str(tmp_path)))


def test_an_error_of_a_constructor_is_reported_with_its_line(module, tmp_path):
    name = module()
    with pytest.raises(
        InputError,
        match=r"env.kwargs = {'sides': 1}: its constructor raised an error: .*line 6, in __init__: ValueError",
    ):
        make_env(EnvSettings(f"{name}:Coin", {"sides": 1}, path=str(tmp_path)))
    with pytest.raises(InputError, match=r"env.kwargs = {'side': 1}: invalid for .*: TypeError"):
        make_env(EnvSettings(f"{name}:Coin", {"side": 1}, path=str(tmp_path)))


def test_a_missing_module_and_a_moved_folder_name_the_file_that_is_needed(module, tmp_path):
    with pytest.raises(InputError, match=rf"no module 'own.it': it is not installed, and {tmp_path} has no own/it.py"):
        import_named("own.it:Coin")
    with pytest.raises(InputError, match=r"env.path = '/gone': no such folder; set env.path, .* of it.py"):
        import_named("it:Coin", "/gone")


def test_two_modules_with_the_same_name_are_an_error(module, tmp_path):
    name = module()
    import_named(f"{name}:Coin", str(tmp_path))
    other = tmp_path / "other"
    other.mkdir()
    (other / f"{name}.py").write_text(SOURCE)
    with pytest.raises(InputError, match=r"is already imported from .*; rename one of them"):
        import_named(f"{name}:Coin", str(other))


@pytest.mark.parametrize("env_id", [":", "a:b:c", "..foo:Coin", "my_gym.py/:Coin", "my gym:Coin", "a:", ":b"])
def test_other_forms_are_refused(env_id):
    with pytest.raises(InputError, match="must be like CartPole-v1, or my_module:MyEnv-v0"):
        split(env_id)
