"""Overrides and config files as users write them: accepted, or rejected with advice."""

import os
import time
from pathlib import Path

import pytest

from ntm_rl.agents.cli.main import main, make_parser
from ntm_rl.agents.settings.loading import check_settings, load_settings, to_short_yaml, without_effect
from ntm_rl.agents.settings.yaml_text import plain, read_yaml, to_yaml_text
from ntm_rl.cores.registry import core_names
from ntm_rl.errors import InputError

CONFIG = "popgym/repeat_previous_easy"


def value_of(settings, key: str):
    for part in key.split("."):
        settings = settings[part] if isinstance(settings, dict) else getattr(settings, part)
    return settings


VALUES = [
    ("total_timesteps", "1e6", 1_000_000),
    ("total_timesteps", "1_000_000", 1_000_000),
    ("total_timesteps", "1000000.0", 1_000_000),
    ("total_timesteps", "2.5e3", 2500),
    ("memory.lstm.hidden_size", "1e2", 100),
    ("total_timesteps", "0x10", 16),
    ("env.kwargs", "{time: 12:30, code: 010, seconds: 1:30.5}", {"time": "12:30", "code": "010", "seconds": "1:30.5"}),
    ("ppo.learning_rate", "1e-4", 1e-4),
    ("tracking.group", "12", "12"),
    ("tracking.group", "1e3", "1e3"),
    ("tracking.group", "true", "true"),
    ("tracking.group", "2024-01-01", "2024-01-01"),
    ("tracking.group", "010", "010"),
    ("tracking.group", "'12'", "12"),
    ("tracking.group", "null", None),
    ("tracking.group", "None", None),
    ("tracking.tags", "[1, 2e3, true, x]", ["1", "2e3", "true", "x"]),
    ("tracking.project", "1.10", "1.10"),
    ("ppo.target_kl", "none", None),
    ("ppo.clip_range_vf", "None", None),
    ("env.max_episode_steps", "null", None),
    ("threads", "none", None),
    ("policy.net_arch", "[32, 16]", {"pi": [32, 16], "vf": [32, 16]}),
    ("policy.net_arch", "{pi: [8], vf: []}", {"pi": [8], "vf": []}),
    ("policy.net_arch", "[]", {"pi": [], "vf": []}),
    ("env.kwargs", "{level: 3, name: 1e3}", {"level": 3, "name": 1000.0}),
    ("run_dir", "~/runs", str(Path.home() / "runs")),
    ("policy.init_from", "~/runs/a", str(Path.home() / "runs/a")),
    ("policy.init_from", "null", None),
]


@pytest.mark.parametrize(("key", "text", "expected"), VALUES)
def test_values_are_read_alike_from_the_command_line_and_a_file(key, text, expected, tmp_path):
    found = value_of(load_settings(CONFIG, [f"{key}={text}"]), key)
    found = found.model_dump() if hasattr(found, "model_dump") else found
    assert found == expected and type(found) is type(expected)
    lines = [f"{'  ' * depth}{part}:" for depth, part in enumerate(key.split("."))]
    env = "" if key.startswith("env") else "env: {id: CartPole-v1}\n"
    if env == "":
        lines.insert(1, "  id: CartPole-v1")
    (tmp_path / "mine.yaml").write_text(env + "\n".join(lines) + f" {text}\n")
    found = value_of(load_settings(str(tmp_path / "mine.yaml")), key)
    assert (found.model_dump() if hasattr(found, "model_dump") else found) == expected


@pytest.mark.parametrize("prefix", ["+", "++"])
def test_prefixes_of_hydra_are_accepted(prefix):
    assert load_settings(CONFIG, [f"{prefix}ppo.gamma=0.5"]).ppo.gamma == 0.5


def test_options_of_other_cores_are_reported_as_without_effect():
    typed = ["memory.lstm.layers=2", "memory.ntm.slots=4", "+memory.gru.hidden_size=8", "seed=1"]
    assert without_effect(load_settings(CONFIG, typed), typed) == ["memory.lstm.layers", "memory.gru.hidden_size"]


@pytest.mark.parametrize(
    ("name", "text", "advice"),
    [
        ("a.yaml", "env.id: CartPole-v1\n", "In a file, write env: {id: ...}"),
        ("a.yaml", "n_envs: 1\n", "env: missing, such as env: {id: CartPole-v1}"),
        ("a.yaml", "env: {id: a}\n---\nenv: {id: b}\n", "expected a single document in the stream"),
        ("a.yaml", "env: {id: a, kwargs: {b: !!omap [c: 1]}}\n", "could not determine a constructor"),
        ("a.yaml", "env: {id: a, kwargs: {b: !!set {c}}}\n", "could not determine a constructor"),
        ("a.yaml", "env: {id: a}\ntask: {name: copy}\n", "A config has either env"),
        ("folder.yaml", None, "must be a YAML file"),
        ("folder", None, "must be a YAML file"),
        ("x" * 300, "", "File name too long"),
        ("popgym/repeat_previous_easy.yaml", "", "Did you mean popgym/repeat_previous_easy?"),
        ("algo=ppo", "", "the config comes first"),
    ],
)
def test_an_invalid_config_file_is_rejected_with_advice(name, text, advice, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if text:
        Path(name).write_text(text)
    elif text is None:
        Path(name).mkdir()
    with pytest.raises(InputError) as caught:
        load_settings(name)
    assert advice in str(caught.value)


def test_a_named_pipe_is_rejected_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "mine.yaml")
    with pytest.raises(InputError, match="must be a YAML file"):
        load_settings(str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize("text", ["a: b", "[x", "{x", "*x", "@x", "a #b", "[x]"])
def test_text_on_the_command_line_is_not_parsed_as_yaml(text):
    assert load_settings(CONFIG, [f"tracking.group={text}"]).tracking.group == text


@pytest.mark.parametrize(
    ("override", "advice"),
    [
        ("ppo.learning_rate=lin_3e-4", "write ppo.learning_rate=3e-4 ppo.learning_rate_schedule=linear"),
        ("ppo.clip_range=lin_0.2", "must be a number; only the learning rate has a schedule"),
        ("policy.net_arch=64", "such as {pi: [64, 64], vf: [64, 64]}, or a list for both"),
        ("policy.net_arch=[64,-1]", "must be sizes from 1 to 16777216, not -1"),
        ("policy.net_arch.vf=[0]", "must be sizes from 1 to 16777216, not 0"),
        ("learning_rate=3e-4", "Did you mean ppo.learning_rate?"),
        ("gamma=0.9", "Did you mean ppo.gamma?"),
        ("total_timesteps=1.5", "must be an integer"),
        ("total_timesteps=010", "must be an integer, such as 1000000 or 1e6"),
        ("total_timesteps=1:30", "must be an integer"),
        ("PPO.gamma=0.9", "command line: PPO = {'gamma': 0.9}: unknown key. Did you mean ppo?"),
        ("core=LSTM", "command line: core = 'LSTM': unknown core"),
        ("env=CartPole-v1", "write env.id=ID"),
        ("env_id=CartPole-v1", "Did you mean env.id?"),
        ("num_envs=4", "Did you mean n_envs?"),
        ("normalize=true", "Did you mean env.normalize_observation and env.normalize_reward?"),
        ("policy=MlpLstmPolicy", "core=NAME chooses the memory core"),
        ("algo=ppo", "The algorithm is always MemoryPPO"),
        ("eval_freq=100", "`ntm-rl evaluate RUN --best` evaluates it"),
        ("tracking.tags=a,b", "must be a list, such as [a, b]"),
        ("device=gpu", "must be auto, cpu, cuda, cuda:N or mps"),
        ("seed=\udce9", "must be UTF-8"),
        ("\udce9=1", "must be UTF-8"),
        ('env.kwargs.x="\\ud800"', "not valid Unicode"),
        ("total_timesteps=1e300", "must be an integer"),
        ("n_envs=1000000000", "must be less than or equal to 65536"),
        ("ppo.n_steps=1e12", "must be less than or equal to 16777216"),
        ("memory.lstm.layers=20000", "must be less than or equal to 1000"),
        ("memory.gtrxl.window=1e12", "must be less than or equal to 16777216"),
        ("memory.ntm.hidden_size=1e6", "memory.ntm: has"),
        (f"policy.net_arch=[{'8,' * 2000}]", "must have at most 1000 layers"),
        ("wandb=none", "must be 'online', 'offline' or 'disabled'"),
        ("run_dir=$HOME/runs", "variables are not expanded; write the path without $"),
        ("run_dir=${oc.env:HOME}/runs", "variables are not expanded"),
        ("policy.init_from=$SCRATCH/run", "variables are not expanded"),
        ("run_dir=~nobody-of-that-name/x", "~ refers to an unknown user"),
        ("run_dir=", "run_dir = null: must be text; an empty value is null: leave it out for the default"),
        ("a..b=1", "must be key=value"),
        ("env.kwargs.x=[1", "line 1, column"),
        ("seed=-1", "must be greater than or equal to 0"),
        ("seed=4294967296", "must be less than 4294967296"),
    ],
)
def test_an_invalid_override_is_rejected_with_advice(override, advice):
    with pytest.raises(InputError) as caught:
        load_settings(CONFIG, [override])
    (line,) = str(caught.value).splitlines()
    assert advice in line


@pytest.mark.parametrize("core", core_names())
@pytest.mark.parametrize("size", [0, -1])
def test_sizes_of_cores_must_be_positive(core, size):
    options = type(getattr(load_settings(CONFIG).memory, core)).model_fields
    sizes = [name for name, field in options.items() if field.annotation is int]
    for name in sizes if size else [each for each in sizes if not {each, f"{core}.{each}"} & MAY_BE_ZERO]:
        with pytest.raises(InputError, match=rf"memory\.{core}\.{name}"):
            load_settings(CONFIG, [f"core={core}", f"memory.{core}.{name}={size}"])


# Heads do not shift; PyTorch's initialisation; the outputs are the inputs.
MAY_BE_ZERO = {"shift_range", "horizon", "feedforward.layers", "frame_stack.layers"}


@pytest.mark.parametrize(
    ("typed", "first", "overrides", "options"),
    [
        (["train", "c", "--seed", "1"], "c", ["seed=1"], []),
        (["train", "c", "--ppo.learning_rate=0.1", "--json"], "c", ["ppo.learning_rate=0.1"], ["json"]),
        (["train", "c", "--total-timesteps", "1e6", "a=b"], "c", ["total_timesteps=1e6", "a=b"], []),
        (["resume", "r", "--trust", "--ppo.ent_coef", "-1"], "r", ["ppo.ent_coef=-1"], ["trust"]),
        (["show", "--keys", "c", "--core=lstm"], "c", ["core=lstm"], ["keys"]),
        (["train", "--seed", "1", "c", "a=b"], "c", ["seed=1", "a=b"], []),
        (["resume", "--seed=1", "--", "-run", "a=b"], "-run", ["seed=1", "a=b"], []),
        (["resume", "run", "--", "a=b"], "run", ["a=b"], []),
    ],
)
def test_overrides_may_be_written_as_options(typed, first, overrides, options):
    parsed = vars(make_parser().parse_args(typed))
    assert parsed.get("config", parsed.get("run")) == first and parsed["overrides"] == overrides
    assert [name for name in ("json", "trust", "keys") if parsed.get(name)] == options


def test_a_command_without_overrides_keeps_its_options():
    parsed = make_parser().parse_args(["evaluate", "r", "--seed", "1"])
    assert (parsed.run, parsed.seed) == ("r", 1)


@pytest.mark.parametrize("last", [["--core"], ["--core", "--json"], ["--core", "seed=1"]])
def test_an_option_without_a_value_is_rejected_with_advice(last, capsys):
    assert main(["train", CONFIG, *last]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("--core: needs a value") and "write key=value" in line and "args_no_hyphens" in line


@pytest.mark.parametrize(
    "text", ["1e3", "true", "null", "~", "12", "2026-01-01", "${x", "a: b", "010", "", "-", "é", "None"]
)
def test_text_survives_a_round_trip_through_yaml(text):
    assert plain(read_yaml(to_yaml_text({"a": text, "b": [text]}))) == {"a": text, "b": [text]}


@pytest.mark.parametrize("config", [CONFIG, "algorithmic/copy"])
def test_train_prints_only_the_options_of_its_core_and_task(config):
    settings = load_settings(config, ["core=lstm"])
    data = plain(read_yaml(to_short_yaml(settings)))
    assert data["memory"] == {"lstm": settings.core_kwargs}
    assert set(data.get("task", {})) <= {"name", "copy"}
    assert check_settings(data, "printed").core_kwargs == settings.core_kwargs


def test_numbers_and_null_survive_a_round_trip_through_yaml():
    data = {"a": 1, "b": 1e-05, "c": 1e20, "d": None, "e": True, "f": [0.1, -3, 2.0]}
    assert plain(read_yaml(to_yaml_text(data))) == data


def test_keys_that_yaml_reads_as_booleans_stay_text():
    assert plain(read_yaml("{on: 1, y: 2, null: 3, '1': 4}")) == {"on": 1, "y": 2, "null": 3, "1": 4}


def bomb(levels: int) -> str:
    lines = ["env:", "  id: CartPole-v1", "  kwargs:", f"    a0: &a0 [{','.join('x' * 10)}]"]
    lines += [f"    a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


CHAIN = "a0: &a0 [x]\n" + "\n".join(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 400))
HOSTILE = {
    "aliases": (bomb(9), "more than 10,000 values after expanding aliases"),
    "twice": ("a: &a {x: 1}\nb: {<<: *a, x: 2}\nb: {}", "'b': duplicate key"),
    "number as a key": (
        "env: {id: CartPole-v1, kwargs: {rewards: {1: 0.5}}}",
        "'1': a key must be text; put it in quotes",
    ),
    "recursive": ("a: &a [*a]", "unknown or recursive alias"),
    "deep list": ("a: " + "[" * 3000 + "]" * 3000, "nested more than 30 levels deep"),
    "deep mapping": ("a: " + "{a: " * 3000, "nested more than 30 levels deep"),
    "deep blocks": ("\n".join(" " * n + "a:" for n in range(300)), "nested more than 30 levels deep"),
    "deep by aliases": (CHAIN, "nested more than 30 levels deep"),
    "wide": ("a: [" + "1," * 20_000 + "]", "more than 10,000 values"),
    "long": ("a: b\n" + "#" * 300_000, "longer than 200,000 characters"),
    "huge": ("a: b\n" + "#" * 3_000_000, "longer than 200,000 characters"),
    "long text": ("a: " + "x" * 50_000, "at most 10,000 characters"),
    "long integer": ("seed: " + "9" * 5000, "limit"),
    "large integer": ("seed: 0x" + "f" * 500, "must fit in 64 bits"),
    "object": ("a: !!python/object/apply:os.system [id]", "could not determine a constructor"),
    "bytes": ("a: !!binary aGVsbG8=", "could not determine a constructor"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_yaml_is_rejected_quickly_with_one_line(name, tmp_path, capsys):
    text, message = HOSTILE[name]
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(text)
    for command in (["show", str(folder / "config.yaml")], ["evaluate", str(folder)], ["resume", str(folder)]):
        began = time.process_time()
        assert main(command) == 2
        assert time.process_time() - began < 3
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line and str(folder / "config.yaml") in line and len(line) < 600


def test_a_hostile_override_is_rejected_with_one_line(capsys):
    assert main(["show", CONFIG, "env.kwargs.x=" + "[" * 3000]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "env.kwargs.x" in line and "nested more than 30 levels deep" in line and len(line) < 300


@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "$RUNS/a"],
        ["resume", "${RUNS}/a"],
        ["record", "r", "--out", "$HOME/film.mp4"],
        ["copy", CONFIG, "$HOME/mine.yaml"],
        ["convert", "$X.zip", "agent"],
        ["convert", "x.zip", "$AGENT", "--trust"],
        ["train", "$HOME/mine.yaml"],
        ["benchmark", "memory", "--suite", "tmaze", "--out", "$HOME/out"],
        ["benchmark", "growth", "--plot", "$HOME/a.png"],
    ],
)
def test_variables_in_paths_are_rejected(command, capsys):
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "variables are not expanded" in line


def test_the_home_directory_is_expanded_in_paths(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["copy", CONFIG, "~/mine.yaml"]) == 0 and (tmp_path / "mine.yaml").is_file()
    assert main(["show", "~/mine.yaml"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "~/nothing"]) == 2
    assert "run = '~/nothing': no such folder" in capsys.readouterr().err


@pytest.mark.parametrize("seed", ["-1", "4294967296", "99999999999999999999999999", "1.5", "x", "nan"])
@pytest.mark.parametrize("command", ["evaluate", "record"])
def test_an_invalid_seed_is_rejected(command, seed, capsys):
    assert main([command, "run", f"--seed={seed}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"'{seed}': must be an integer from 0 to 4294967295" in line
