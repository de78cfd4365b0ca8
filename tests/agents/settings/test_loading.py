"""Packaged configs, overrides and error messages."""

import pytest

from ntm_rl.agents.settings.loading import check_settings, describe_keys, load_settings, to_yaml
from ntm_rl.agents.settings.sources import config_names
from ntm_rl.cores.registry import core_names
from ntm_rl.errors import InputError

CONFIG = "popgym/repeat_previous_easy"


@pytest.mark.parametrize("core", core_names())
@pytest.mark.parametrize("config", config_names())
def test_every_packaged_config_is_valid_with_every_core_and_survives_a_round_trip(config, core, tmp_path):
    settings = load_settings(config, [f"core={core}"])
    (tmp_path / "config.yaml").write_text(to_yaml(settings))
    assert load_settings(str(tmp_path / "config.yaml")) == settings


def test_the_core_configs_are_packaged():
    names = {"repeat_previous_easy", "repeat_first_easy", "count_recall_easy", "concentration_easy", "autoencode_easy"}
    expected = {f"popgym/{name}" for name in names} | {"minigrid/memory_s7", "minigrid/memory_s9"}
    assert expected | {"control/cartpole_no_velocity", "control/pendulum_no_velocity"} <= set(config_names())


def test_overrides_replace_values_with_their_types():
    settings = load_settings(CONFIG, ["ppo.learning_rate=1e-4", "core=gru", "memory.gru.hidden_size=7", "wandb=null"])
    assert settings.ppo.learning_rate == 1e-4
    assert settings.core_kwargs == {"hidden_size": 7, "layers": 1}
    assert settings.wandb is None
    assert settings.env_settings.id == "popgym-RepeatPreviousEasy-v0"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ppo.n_stepz=3", "command line: ppo.n_stepz = 3: unknown key. Did you mean ppo.n_steps?"),
        ("memory.ntm.slotz=64", "command line: memory.ntm.slotz = 64: unknown key. Did you mean memory.ntm.slots?"),
        ("sead=1", "command line: sead = 1: unknown key. Did you mean seed?"),
        ("ppo.n_steps=many", "command line: ppo.n_steps = 'many': must be an integer"),
        ("ppo.n_steps=1.5", "command line: ppo.n_steps = 1.5: must be an integer"),
        ("ppo.gamma=high", "command line: ppo.gamma = 'high': must be a number"),
        ("ppo.gamma=1.1", "command line: ppo.gamma = 1.1: must be less than or equal to 1"),
        ("ppo.gamma=.nan", "command line: ppo.gamma = nan: must be a finite number"),
        ("env.mask_velocity=3", "command line: env.mask_velocity = 3: must be true or false"),
        ("env.action_masks=maybe", "command line: env.action_masks = 'maybe': must be true or false, or auto"),
        ("ppo.gae_lambda=x", "command line: ppo.gae_lambda = 'x': must be a number, or auto"),
        ("env=3", "command line: env = 3: must be a mapping"),
        ("policy.net_arch.pi=[64,x]", "command line: policy.net_arch.pi = 'x': must be an integer"),
        ("wandb=maybe", "command line: wandb = 'maybe': must be 'online', 'offline' or 'disabled'."),
        ("policy.critic=shard", "must be 'shared', 'joint', 'detached' or 'separate'. Did you mean shared?"),
        ("device=gpu", "command line: device = 'gpu': "),
        ("n_envs=0", "command line: n_envs = 0: must be greater than or equal to 1"),
        ("core=ntn", f"core = 'ntn': unknown core; valid are {', '.join(core_names())}. Did you mean ntm?"),
        ("memory.ntm.slots=2", "memory.ntm.slots = 2: must be an integer of at least 3"),
        ("ppo.sequence_length=50", "ppo.sequence_length = 50: must divide ppo.n_steps = 128"),
        ("ppo.batch_size=100", "ppo.batch_size = 100: must be a multiple of ppo.sequence_length = 64"),
        ("ppo.batch_size=8192", "ppo.batch_size = 8192: must be at most ppo.n_steps * n_envs = 4096"),
        ("ppo.gamma", "command line: 'ppo.gamma': must be key=value"),
    ],
)
def test_an_error_is_one_line_with_key_value_and_valid_values(override, message):
    with pytest.raises(InputError) as caught:
        load_settings(CONFIG, [override])
    (line,) = str(caught.value).splitlines()
    assert message in line


def test_all_errors_are_reported_at_once_with_their_source(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("env: {id: CartPole-v1, idd: 3}\nppo: {n_steps: x}\nmemory: {ntm: {slotz: 64}}\n")
    with pytest.raises(InputError) as caught:
        load_settings(str(path), ["seed=-1"])
    assert sorted(str(caught.value).splitlines()) == sorted(
        [
            f"{path}: env.idd = 3: unknown key. Did you mean env.id?",
            f"{path}: memory.ntm.slotz = 64: unknown key. Did you mean memory.ntm.slots?",
            f"{path}: ppo.n_steps = 'x': must be an integer, such as 1000000 or 1e6, or auto",
            "command line: seed = -1: must be greater than or equal to 0",
        ]
    )


@pytest.mark.parametrize("text", ["- 1\n", "a: [\n", "a: 1\na: 2\n", "just text\n", "\0", "a: ${b\n"])
def test_a_file_that_is_not_a_config_is_one_error(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"bad\.yaml"):
        load_settings(str(path))


def test_nothing_in_a_config_is_evaluated(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "leaked")
    path = tmp_path / "env.yaml"
    path.write_text("env: {id: '${oc.env:SECRET}'}\n")
    assert load_settings(str(path)).env.id == "${oc.env:SECRET}"


def test_missing_keys_and_files_are_named():
    with pytest.raises(InputError, match="mine: env: missing"):
        check_settings({}, "mine")
    with pytest.raises(InputError, match=r"mine: env\.id: missing"):
        check_settings({"env": {}}, "mine")
    with pytest.raises(InputError, match=r"nothing\.yaml': no such file"):
        load_settings("nothing.yaml")
    with pytest.raises(
        InputError,
        match=r"no such file, packaged config or environment. Did you mean popgym/repeat_previous_easy or popgym-Rep",
    ):
        load_settings("popgym/repeat_previus_easy")
    with pytest.raises(
        InputError,
        match=r"`ntm-rl list configs` and `ntm-rl list envs` list them",
    ):
        load_settings("zzz")


def test_a_misspelt_file_of_a_config_is_corrected(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keyroom.yaml").touch()
    for folder in ("", f"{tmp_path}/"):
        with pytest.raises(InputError, match=rf"Did you mean {folder}keyroom\.yaml\?$"):
            load_settings(f"{folder}keyrom.yaml")


def test_every_key_has_a_description():
    rows = {
        key: (kind, default, sentence)
        for key, kind, default, sentence in describe_keys(load_settings("popgym/repeat_previous_easy"))
    }
    assert {"env.id", "memory.ntm.slots", "memory.gtrxl.window", "ppo.learning_rate", "seed"} <= rows.keys()
    assert all(sentence.endswith(".") for _, _, sentence in rows.values())
    assert rows["memory.ntm.slots"] == ("int", "32", "Memory slots N.")
    assert rows["env.id"][1] == "required"


def test_what_is_wrong_with_a_supervised_config_comes_in_one_line_each():
    def check(*overrides):
        return load_settings("algorithmic/copy", overrides)

    for override, message in {
        "task.copy.max_length=-1": r"task.copy.max_length = -1: must be an integer of at least 1",
        "task.name=copi": r"task.name = 'copi': must be .* Did you mean copy\?",
        "validation.longer=[{items: 3}]": r"validation.longer.items: unknown; a difficulty of this task has",
        "optimizer.name=adagrad": r"optimizer.name = 'adagrad': must be 'rmsprop', 'adam' or 'sgd'",
        "ppo.gamma=0.9": r"ppo = .*: unknown key",
        "task.copy.size=3": r"task.copy.size = 3: unknown key. Valid keys are bits, min_length, max_length",
    }.items():
        with pytest.raises(InputError, match=message):
            check(override)
    with pytest.raises(InputError, match=r"mine: task.name: missing"):
        check_settings({"task": {}}, "mine")


@pytest.mark.parametrize("task", ["associative_recall", "repeat_copy"])
def test_the_packaged_configs_of_a_task_have_the_same_memory(task):
    """A PPO config that says it can begin with a supervised run's network must fit it as it is."""
    supervised, ppo = (load_settings(f"algorithmic/{name}", []) for name in (task, f"{task}_ppo"))
    assert supervised.core == ppo.core
    assert supervised.core_kwargs == ppo.core_kwargs
