"""Search spaces: what each form of a parameter means, and the errors of a file, all at once."""

import optuna
import pytest

from ntm_rl.agents.settings.errors import ConfigError
from ntm_rl.agents.settings.loading import load_config
from ntm_rl.agents.settings.sources import space_names
from ntm_rl.agents.sweeps.parameters import Choice, Range
from ntm_rl.agents.sweeps.space import Space, load_space


def read(tmp_path, text: str, *overrides: str, config: str = "CartPole-v1", overridden=()) -> Space:
    file = tmp_path / "space.yaml"
    file.write_text(text)
    return load_space(str(file), load_config(config, overrides)[0], overridden)


def errors(tmp_path, text: str, *overrides: str, **options) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text, *overrides, **options)
    return [line.removeprefix(f"{tmp_path}/space.yaml: ") for line in str(caught.value).splitlines()]


@pytest.mark.parametrize(
    ("line", "domain"),
    [
        ("ppo.learning_rate: {low: 1e-5, high: 1e-3, log: true}", Range(1e-5, 1e-3, None, True, False)),
        ("ppo.ent_coef: {low: 0, high: 0.1}", Range(0.0, 0.1, None, False, False)),
        ("ppo.clip_range: {low: 0.1, high: 0.3, step: 0.1}", Range(0.1, 0.3, 0.1, False, False)),
        ("ppo.n_epochs: {low: 1, high: 1e1, step: 3}", Range(1, 10, 3, False, True)),
        ("memory.lstm.hidden_size: {low: 8, high: 64, log: true}", Range(8, 64, None, True, True)),
        ("ppo.clip_range_vf: [none, 0.2]", Choice((None, 0.2))),
        ("policy.activation: [Tanh, ReLU]", Choice(("Tanh", "ReLU"))),
        ("ppo.use_sde: {values: [true, false]}", Choice((True, False))),
        ("ppo.n_steps: [auto, 1e2]", Choice(("auto", 100))),
        ("env.kwargs.x: {low: 1, high: 3}", Range(1, 3, None, False, True)),
        ("env.kwargs.x: {low: 1, high: 3.5}", Range(1.0, 3.5, None, False, False)),
    ],
)
def test_a_parameter_has_the_type_of_its_key(tmp_path, line, domain):
    (parameter,) = read(tmp_path, line, "core=lstm").parameters
    assert parameter.domain == domain
    assert list(map(type, parameter.domain.examples)) == list(map(type, domain.examples))


def test_lists_and_mappings_are_stored_as_text_and_restored(tmp_path):
    space = read(tmp_path, "policy.net_arch: [[64], [64, 64], {pi: [32], vf: []}]")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = []
    for _ in range(20):
        trial = study.ask()
        values = space.suggest(trial)
        seen.append(values["policy.net_arch"])
        assert space.values(trial.params) == values and isinstance(trial.params["policy.net_arch"], str)
    assert all(each in seen for each in ([64], [64, 64], {"pi": [32], "vf": []}))


def test_a_conditional_key_exists_only_where_its_conditions_hold(tmp_path):
    text = """
    memory.lstm.layers: {values: [1, 2], when: {memory.lstm.hidden_size: [8, 16]}}
    memory.lstm.hidden_size: {values: [8, 16, 32], when: {core: lstm}}
    core: [lstm, gru]
    """
    space = read(tmp_path, text.replace("\n    ", "\n"))
    assert [each.key for each in space.parameters] == ["core", "memory.lstm.hidden_size", "memory.lstm.layers"]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    keys = set()
    for _ in range(40):
        values = space.suggest(study.ask())
        assert ("memory.lstm.hidden_size" in values) == (values["core"] == "lstm")
        assert ("memory.lstm.layers" in values) == (values.get("memory.lstm.hidden_size") in (8, 16))
        keys.add(tuple(values))
    assert len(keys) == 3


def test_all_errors_of_a_space_are_reported_at_once(tmp_path):
    lines = {
        "ppo.learning_rat: {low: 1e-5, high: 1e-3}": "unknown key. Did you mean ppo.learning_rate?",
        "ppo.gamma: {low: 0.9, high: 1.5}": "ppo.gamma = 1.5: must be less than or equal to 1",
        "ppo.clip_range: {low: 1, high: 0.1}": "ppo.clip_range: low = 1 must be below high = 0.1",
        "ppo.vf_coef: {low: 0, high: 1, log: true}": "low = 0 must be above 0, as log = true",
        "ppo.adam_epsilon: {low: 1, high: 2, step: 1, log: true}": "has step and log",
        "ppo.n_steps: {min: 1, max: 3}": "ppo.n_steps.min: unknown option. Did you mean low?",
        "ppo.use_sde: {low: 1, high: 3}": "is not a number; give a list of values",
        "ppo.n_epochs: 4": "ppo.n_epochs = 4: must be a list of values, or {low: ..., high: ...}",
        "ppo.batch_size: {low: 64, high: 500, step: 64}": "such as 448",
        "ppo.target_kl: {low: a, high: .inf}": "ppo.target_kl.low = a: must be a finite number",
        "ppo.sequence_length: {low: 1.5, high: 4}": "ppo.sequence_length.low = 1.5: must be an integer",
        "policy: {net_arch: [[64]]}": "write keys with dots: policy.net_arch: ...",
        "policy.critic: [shared, shared]": "has the value shared twice",
        "policy.activation: [relu]": "Did you mean ReLU?",
        "seed: [1, 2]": "cannot be swept",
        "tracking.group: [a]": "is not a hyperparameter; set it on the command line (tracking.group=...)",
        "env.id: [CartPole-v1, Pendulum-v1]": "scores of different environments cannot be compared",
        "ppo.max_grad_norm:": "ppo.max_grad_norm = null: must be a list of values",
        "ppo.ent_coef: {values: [0], when: {}}": "ppo.ent_coef.when = {}: must be {KEY: VALUE}",
        "core: [lstm, ntm_blok]": "Did you mean ntm_block?",
        "memory.lstm.hidden_size: {low: 0, high: 8}": "memory.lstm.hidden_size = 0: must be an integer of at least 1",
        "memory.lstm.layers: {values: [1], when: {core: gru}}": "not a value of core; valid are lstm, ntm_blok",
        "memory.gru.layers: {values: [1], when: {cor: gru}}": "add cor to the space. Did you mean core?",
        "n_envs: {values: [], low: 1}": "n_envs: has values and low",
        "total_timesteps: []": "must be a list of at least one value",
    }
    found = errors(tmp_path, "\n".join(lines))
    for line, expected in lines.items():
        assert any(expected in each for each in found), line
    assert len(found) == len(lines) + 4  # max of n_steps, high of target_kl, and two keys that are parts of policy


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "must be a mapping of config keys to their values"),
        ("[1]", "must be a mapping"),
        ("a: [", "not a valid search space"),
        ("ppo.gamma: [0.9]\nppo.gamma: [0.8]", "duplicate key"),
        ("policy.net_arch: [[3]]\npolicy.net_arch.pi: [[3]]", "policy.net_arch.pi: is a part of policy.net_arch"),
    ],
)
def test_a_malformed_space_is_one_error(tmp_path, text, expected):
    (line,) = errors(tmp_path, text)
    assert expected in line


def test_conditions_may_not_form_a_cycle(tmp_path):
    text = "ppo.gamma: {values: [0.9], when: {ppo.vf_coef: 1}}\nppo.vf_coef: {values: [1], when: {ppo.gamma: 0.9}}"
    assert errors(tmp_path, text) == [
        f"{key}.when: the conditions form a cycle" for key in ("ppo.gamma", "ppo.vf_coef")
    ]


def test_a_key_of_the_command_line_cannot_be_in_the_space(tmp_path):
    (line,) = errors(tmp_path, "policy.net_arch: [[64]]", overridden=["policy.net_arch.pi"])
    assert line == "policy.net_arch: the command line sets policy.net_arch.pi; leave out one of them"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("wandb", "disabled", "is not a hyperparameter; set it on the command line (wandb=...)"),
        ("env", "{id: CartPole-v1}", "cannot be swept, as scores of different environments cannot be compared"),
        ("env.path", "folder", "cannot be swept, as scores of different environments cannot be compared"),
    ],
)
def test_a_key_that_is_no_hyperparameter_has_one_error_also_if_it_is_set_twice(tmp_path, key, value, expected):
    (line,) = errors(tmp_path, f"{key}: [{value}]", overridden=[key])
    assert line.startswith(f"{key}: {expected}")


def test_an_error_that_another_key_of_the_space_may_remove_is_left_to_the_trials(tmp_path):
    sizes = ("n_envs=2", "ppo.n_steps=32", "ppo.sequence_length=32", "ppo.batch_size=32")
    (line,) = errors(tmp_path, "ppo.batch_size: [32, 128]", *sizes)
    assert line == "ppo.batch_size = 128: must be at most ppo.n_steps * n_envs = 64"
    assert len(read(tmp_path, "ppo.batch_size: [32, 128]\nn_envs: [2, 8]", *sizes).parameters) == 2


@pytest.mark.parametrize("name", space_names())
@pytest.mark.parametrize("config", ["CartPole-v1", "popgym/repeat_previous_easy"])
def test_packaged_spaces_are_valid(name, config):
    base = load_config(config)[0]
    assert load_space(name, base) == load_space(f"spaces/{name}", base)


@pytest.mark.parametrize("length", [50_000, 300_000])
def test_a_list_that_is_too_long_names_the_range(tmp_path, length):
    file = tmp_path / "space.yaml"
    file.write_text(f"ppo.gamma: [{'0.9, ' * length}]")
    with pytest.raises(ConfigError, match=r"longer than 200,000 characters; write a range \{low, high\}"):
        load_space(str(file), load_config("CartPole-v1")[0])


def test_a_space_given_as_config_is_one_error(tmp_path):
    file = tmp_path / "space.yaml"
    file.write_text("n_envs: [2, 4]\nppo.gamma: [0.9, 0.99]\nppo.n_epochs: {low: 1, high: 3}\ncore: [lstm]\n")
    with pytest.raises(
        ConfigError, match=r"space\.yaml: this is a search space, not a config; use ntm-rl sweep CONFIG"
    ):
        load_config(str(file))
    with pytest.raises(ConfigError, match=r"the packaged search spaces are lstm, ntm, ppo\. Did you mean ppo\?"):
        load_config("spaces/pppo")


def test_an_unknown_space_is_one_error(tmp_path):
    with pytest.raises(ConfigError, match=r"the packaged search spaces are lstm, ntm, ppo\. Did you mean ppo\?"):
        load_space("pppo", load_config("CartPole-v1")[0])
