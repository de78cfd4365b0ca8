"""Agents are pushed to a fake hub, pulled, and played like a run of one's own."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import constants

from command_line import as_json, done, refused, run
from fake_hub import TOKEN, Hub, serve
from ntm_rl.agents import load_agent, load_run_agent
from ntm_rl.agents.inspection.evaluation import evaluate
from ntm_rl.agents.policy.files import write_agent
from ntm_rl.agents.runs.run import Run
from ntm_rl.agents.sharing import push as pushing
from ntm_rl.agents.storage import hub as hub_files
from ntm_rl.errors import InputError
from small_trainings import TINY_LSTM, TINY_PPO, train_copy, train_run

# huggingface_hub's upload uses a deprecated argument of its HTTP library.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

REPOSITORY = "ann/cart-pole"
EPISODES = ("--episodes", "3")
KEPT = {".gitattributes", "README.md", "agent/card.json", "agent/weights.safetensors", "config.yaml", "results.json"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("secret-folder")
    overrides = (*TINY_PPO, *TINY_LSTM, "total_timesteps=64", "env.normalize_observation=true")
    return train_run("CartPole-v1", folder, *overrides, "tracking.entity=secret-user")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub, the cache of its client, and a token; episodes are not recorded."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(pushing, "SHOWN", {})
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with serve() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        template = served.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield served


@pytest.fixture
def pushed(hub, trained, capsys) -> Hub:
    done(capsys, "push", trained.path, REPOSITORY, *EPISODES)
    return hub


def test_a_pushed_agent_has_the_known_files_in_one_commit(pushed):
    files = pushed.repositories[REPOSITORY]
    assert set(files) == KEPT and pushed.commits == 1
    results = json.loads(files["results.json"])
    assert (results["environment"], results["episodes"], results["seed"]) == ("CartPole-v1", 3, 10_000)
    _, front, text = files["README.md"].decode().split("---\n", 2)
    (model,) = (card := yaml.safe_load(front))["model-index"]
    (result,) = model["results"]
    assert card["library_name"] == "ntm-rl" and "CartPole-v1" in card["tags"]
    assert (result["task"]["type"], result["dataset"]["name"]) == ("reinforcement-learning", "CartPole-v1")
    (metric,) = result["metrics"]
    assert metric["value"] == f"{results['mean_reward']:.2f} +/- {results['std_reward']:.2f}"
    assert f"ntm-rl pull {REPOSITORY} agent" in text and "ntm-rl train agent/config.yaml" in text


def test_neither_the_token_nor_names_of_this_machine_are_published(pushed, trained, tmp_path, capsys):
    done(capsys, "pull", REPOSITORY, tmp_path / "pulled")
    secrets = [text.encode() for text in (TOKEN, "secret-folder", "secret-user", str(Path.home()), str(tmp_path))]
    for name, content in pushed.repositories[REPOSITORY].items():
        assert not [secret for secret in secrets if secret in content], name
    for path in (*trained.path.rglob("*"), *(tmp_path / "pulled").rglob("*"), *(tmp_path / "cache").rglob("*")):
        assert path.is_dir() or TOKEN.encode() not in path.read_bytes()


def test_a_pulled_agent_plays_like_the_run(pushed, trained, tmp_path, capsys):
    done(capsys, "pull", REPOSITORY, tmp_path / "pulled")
    assert {path.name for path in tmp_path.iterdir()} == {"pulled", "cache"}
    found, expected = (
        as_json(capsys, "evaluate", path, *EPISODES)["mean_return"] for path in (tmp_path / "pulled", trained.path)
    )
    assert found == expected
    assert json.loads((tmp_path / "pulled" / "results.json").read_text())["mean_reward"] == expected
    assert Run.open(tmp_path / "pulled").settings().env == trained.settings().env


def test_a_pulled_best_agent_is_called_the_best(hub, trained, tmp_path, capsys):
    copy = Run.open(shutil.copytree(trained.path, tmp_path / "run"))
    agent = load_run_agent(copy, device="cpu")
    extra = {**agent.card["extra"], "mean_return": 21.5}
    write_agent(replace(agent, card={**agent.card, "extra": extra}), copy.best)
    done(capsys, "push", copy.path, REPOSITORY, *EPISODES, "--best")
    done(capsys, "pull", REPOSITORY, tmp_path / "pulled")
    pulled = load_run_agent(tmp_path / "pulled").origin
    assert pulled.is_best and "the best agent: step 64, mean return 21.5 in training" in str(pulled)


@pytest.mark.parametrize("prefix", ["hf://", "https://huggingface.co/"])
def test_pull_takes_references_and_urls(pushed, tmp_path, capsys, prefix):
    done(capsys, "pull", f"{prefix}{REPOSITORY}", tmp_path / "pulled")
    assert (tmp_path / "pulled" / "config.yaml").is_file()


def test_load_agent_takes_a_repository(pushed, trained):
    observation = np.full(4, 0.1, np.float32)
    expected, _ = load_run_agent(trained, device="cpu").predict(observation, deterministic=True)
    sha = pushed.sha(REPOSITORY)
    for reference in (f"hf://{REPOSITORY}", f"hf://{REPOSITORY}@{sha}"):
        agent = load_agent(reference, "cpu")
        assert agent.statistics and agent.predict(observation, deterministic=True)[0] == expected
    with pytest.raises(InputError, match="no such branch, tag or commit"):
        load_agent(f"hf://{REPOSITORY}@v9")


def test_a_second_push_replaces_files_and_deletes_stale_ones(pushed, trained, capsys, monkeypatch):
    pushed.repositories[REPOSITORY]["memory.html"] = b"old"
    monkeypatch.setattr(pushing, "SHOWN", {"replay.mp4": lambda run, path, seed, best: path.write_bytes(b"film")})
    done(capsys, "push", trained.path, REPOSITORY, *EPISODES, "--seed", "1")
    files = pushed.repositories[REPOSITORY]
    assert set(files) == {*KEPT, "replay.mp4"} and files["replay.mp4"] == b"film" and pushed.commits == 2
    assert json.loads(files["results.json"])["seed"] == 1 and b"replay.mp4" in files["README.md"]


def test_a_video_that_cannot_be_made_is_left_out_with_a_note(hub, trained, capsys, monkeypatch):
    def refuse(run, path, seed, best):
        raise InputError("no frames")

    monkeypatch.setattr(pushing, "SHOWN", {"replay.mp4": refuse})
    _, _, error = run(capsys, "push", trained.path, REPOSITORY, *EPISODES, "--private")
    assert "note: without replay.mp4: no frames" in error
    assert set(hub.repositories[REPOSITORY]) == KEPT and hub.private == {REPOSITORY}


def test_errors_of_a_push_are_one_line_and_write_nothing(hub, trained, tmp_path, capsys, monkeypatch):
    def line(*arguments) -> str:
        text = refused(capsys, "push", *arguments, *EPISODES)
        assert TOKEN not in text
        return text

    assert "must be USER/NAME" in line(trained.path, "no-user")
    assert "leave out @v1" in line(trained.path, f"{REPOSITORY}@v1")
    assert "supervised" in line(train_copy(tmp_path).path, REPOSITORY)
    hub.repositories["ann/other"] = {"model.bin": b""}
    assert "has other files, such as 'model.bin'" in line(trained.path, "ann/other")
    assert "access denied" in line(trained.path, "bob/cart-pole")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "access denied" in line(trained.path, REPOSITORY)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert "not logged in" in line(trained.path, REPOSITORY)
    assert hub.commits == 0 and set(hub.repositories) == {"ann/other"}


def test_errors_of_a_pull_are_one_line_and_write_nothing(pushed, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "pulled"

    def line(repository=REPOSITORY, target=folder) -> str:
        return refused(capsys, "pull", repository, target)

    assert "no such repository" in line("ann/none")
    for name in ("", "ann", "../x", "ann/../x", "ann/x y", "ann/é", "/etc/passwd", "a/b/c", "https://hf.example/a/b"):
        assert "must be USER/NAME" in line(name)
    for name in ("ann/a--b", f"ann/{'x' * 97}", "ann/ü", "ann-/x", "ann/x.", "ann/x.git"):
        assert "1 to 96 of the characters a-z, A-Z, 0-9" in line(name)
    for revision in ("../y", "", "é", "x" * 101):
        assert "the revision must be a branch, tag or commit" in line(f"ann/x@{revision}")
    assert "exists already" in line(target=tmp_path)
    assert "no such folder" in line(target=tmp_path / "none" / "pulled")
    pushed.repositories["ann/bert"] = {"model.safetensors": b"", "config.json": b"{}"}
    assert "not the repository of an agent" in line("ann/bert")
    pushed.private.add(REPOSITORY)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "no access" in line()
    pushed.private.clear()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be reached" in line()
    assert not folder.exists() and not list(tmp_path.glob(".pull*"))


def test_hostile_files_are_refused_or_not_downloaded(pushed, tmp_path, capsys):
    files = pushed.repositories[REPOSITORY]
    files |= {"../evil.py": b"", "agent/evil.pkl": b"", "setup.py": b""}
    done(capsys, "pull", REPOSITORY, tmp_path / "first")
    names = {path.relative_to(tmp_path / "first").as_posix() for path in (tmp_path / "first").rglob("*")}
    assert names == {"agent", *KEPT} - {".gitattributes"}
    assert not [each for each in pushed.requests if "evil" in each or "setup" in each]
    good = dict(files)
    for name, content, message in (
        ("agent/weights.safetensors", b"\x80\x04pickle", "agent/weights.safetensors"),
        ("config.yaml", b"env: {id: CartPole-v1, kwargs: !!python/object:os.system x}", "config.yaml"),
        ("config.yaml", b"nonsense: 1\nenv: {id: CartPole-v1}", "nonsense"),
    ):
        pushed.repositories[REPOSITORY] = {**good, name: content}
        assert message in refused(capsys, "pull", REPOSITORY, tmp_path / "second")
    pushed.repositories[REPOSITORY] = {name: content for name, content in good.items() if name != "config.yaml"}
    assert "config.yaml" in refused(capsys, "pull", REPOSITORY, tmp_path / "second")
    pushed.repositories[REPOSITORY] = good
    pushed.sizes["README.md"] = hub_files.LIMITS["README.md"] + 1
    assert "must be at most" in refused(capsys, "pull", REPOSITORY, tmp_path / "second")
    assert not (tmp_path / "second").exists() and not list(tmp_path.glob(".pull*"))


def test_a_pulled_run_with_an_environment_of_its_author_needs_trust(pushed, tmp_path, capsys):
    config = yaml.safe_load(pushed.repositories[REPOSITORY]["config.yaml"])
    config["env"]["id"] = "evil_module:Env"
    pushed.repositories[REPOSITORY]["config.yaml"] = yaml.safe_dump(config).encode()
    done(capsys, "pull", REPOSITORY, tmp_path / "pulled")
    assert "add --trust" in refused(capsys, "evaluate", tmp_path / "pulled")


def test_a_path_of_this_machine_in_the_config_is_not_published(hub, trained, tmp_path, capsys):
    copy = Run.open(shutil.copytree(trained.path, tmp_path / "run"))
    text = copy.config_file.read_text().replace("kwargs: {}", "kwargs: {rom: /home/ann/rom.bin}")
    assert "rom.bin" in text
    copy.config_file.write_text(text)
    line = refused(capsys, "push", copy.path, REPOSITORY, *EPISODES)
    assert "env.kwargs.rom" in line and not hub.repositories


def test_the_page_of_an_episode_is_published(hub, trained, capsys, monkeypatch):
    monkeypatch.setattr(pushing, "SHOWN", {"memory.html": pushing._watch})
    done(capsys, "push", trained.path, REPOSITORY, *EPISODES)
    files = hub.repositories[REPOSITORY]
    assert b"<html" in files["memory.html"] and b"memory.html" in files["README.md"]
    assert not [text for text in (b"secret-folder", b"secret-user", TOKEN.encode()) if text in files["memory.html"]]


def test_an_agent_other_than_the_evaluated_one_is_not_pushed(hub, trained, capsys, monkeypatch):
    def evaluate_an_older(*arguments, **options):
        result = evaluate(*arguments, **options)
        return replace(result, origin=replace(result.origin, step=32))

    monkeypatch.setattr(pushing, "evaluate", evaluate_an_older)
    code, _, error = run(capsys, "push", trained.path, REPOSITORY, *EPISODES)
    assert code == 2 and "a newer agent" in error.splitlines()[-1] and hub.commits == 0


def test_missing_write_access_is_found_before_the_evaluation(hub, trained, tmp_path, capsys):
    hub.read_only = True
    assert "access denied" in refused(capsys, "push", trained.path, REPOSITORY, *EPISODES)
    hub.repositories |= {REPOSITORY: {}, "bob/agent": {}}
    for repository in (REPOSITORY, "bob/agent"):
        line = refused(capsys, "push", trained.path, repository, *EPISODES)
        assert "access denied" in line and "a token that may write" in line
    assert hub.commits == 0


def test_no_repository_is_created_for_invalid_arguments_or_a_missing_agent(hub, trained, capsys):
    assert "episodes = 0" in refused(capsys, "push", trained.path, REPOSITORY, "--episodes", "0")
    assert "best" in refused(capsys, "push", trained.path, REPOSITORY, *EPISODES, "--best")
    assert not hub.repositories


def test_episodes_without_end_are_refused_with_the_setting_that_ends_them(hub, trained, capsys, monkeypatch):
    ended = 0

    def evaluate_endless(*arguments, **options):
        return replace(evaluate(*arguments, **options), ended=ended, max_steps=10_000)

    monkeypatch.setattr(pushing, "evaluate", evaluate_endless)
    code, _, error = run(capsys, "push", trained.path, REPOSITORY, *EPISODES)
    assert code == 2 and hub.commits == 0
    assert error.splitlines()[-1].endswith("train with env.max_episode_steps=N")
    ended = 2
    _, _, error = run(capsys, "push", trained.path, REPOSITORY, *EPISODES)
    assert "note: the mean reward covers only the 2 of 3 episodes that ended within 10,000 steps" in error


def test_the_guides_commands_and_code_run(hub, trained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[3] / "docs" / "guide" / "share.md").read_text()
    copy = Path(shutil.copytree(trained.path, tmp_path / "run"))
    shutil.copytree(copy / "agent", copy / "best", dirs_exist_ok=True)
    page = page.replace("RUN", str(copy)).replace("USER/NAME", REPOSITORY)
    lines = [line.split()[1:] for line in page.splitlines() if line.startswith("ntm-rl ")]
    assert [words[0] for words in lines] == ["push", "push", "pull", "evaluate"]
    for words in lines:
        done(capsys, *words)
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(code, found := {})
    assert found["action"] in (0, 1)


def test_the_missing_package_is_named(trained, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert 'pip install "ntm-rl[hub]"' in refused(capsys, "push", trained.path, REPOSITORY, *EPISODES)


def test_the_commands_work_with_hf_endpoint(hub, trained, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    command = [sys.executable, "-m", "ntm_rl.agents"]
    for words in (["push", trained.path, REPOSITORY, *EPISODES], ["pull", REPOSITORY, tmp_path / "pulled"]):
        result = subprocess.run([*command, *map(str, words)], capture_output=True, text=True)
        assert result.returncode == 0 and TOKEN not in result.stdout + result.stderr, result.stderr
    assert (tmp_path / "pulled" / "config.yaml").is_file()
