"""`ntm-rl watch`, and the pages that a training writes."""

import base64
import json
import re
import webbrowser
import zlib

import numpy as np
import pytest

from ntm_rl.agents.cli.main import main
from ntm_rl.agents.inspection import watch as module
from ntm_rl.agents.inspection.episode import PlayOptions
from ntm_rl.agents.inspection.watch import watch
from ntm_rl.agents.storage import files
from ntm_rl.agents.storage.tensors import read_tensors
from ntm_rl.errors import InputError
from small_trainings import SMALL_NTM, TINY_COPY, TINY_PPO, train_copy, train_run
from tracking_logs import read_wandb

SHORT = (*TINY_PPO, "ppo.n_steps=16", "ppo.sequence_length=16", "total_timesteps=32")


def document_of(page: str) -> dict:
    return json.loads(re.search(r'id="document">(.*?)</script>', page, re.S)[1])


def array_of(page: str, described: dict) -> np.ndarray:
    """The levels or numbers of an array."""
    data = zlib.decompress(base64.b64decode(re.search(r'id="arrays">(.*?)</script>', page, re.S)[1]))
    kind = {"u1": np.uint8, "i4": np.int32, "f4": np.float32}[described["type"]]
    numbers = np.frombuffer(data, kind, int(np.prod(described["shape"])), described["start"])
    numbers = numbers.reshape(described["shape"])
    return numbers.cumsum(axis=0, dtype=np.uint8) if described["type"] == "u1" else numbers


@pytest.fixture(scope="module")
def ppo_run(tmp_path_factory):
    return train_run("popgym/repeat_previous_easy", tmp_path_factory.mktemp("runs"), *SHORT, "core=ntm", *SMALL_NTM)


def test_the_command_line_writes_the_page_of_an_agent(ppo_run, capsys):
    assert main(["watch", str(ppo_run.path), "--episodes", "2", "--max-steps", "60", "--json"]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    (file,) = (ppo_run.path / "watch").iterdir()
    page = file.read_text()
    assert result["bytes"] == len(page.encode()) and result["path"].endswith(file.name)
    assert "note: stopped after 60 steps (max_steps): 2 of 2 episodes shown, the last incomplete\n" in printed.err
    document = document_of(page)
    assert document["title"] == "popgym-RepeatPreviousEasy-v0"
    (source,) = document["sources"]
    assert source["name"] == ppo_run.path.name and source["details"][0] == "ntm"
    assert [episode["steps"] for episode in source["episodes"]] == [51, 9]
    tracks = {(track["group"], track["name"]): track for track in source["episodes"][0]["tracks"]}
    returns = array_of(page, tracks["agent", "return"]["values"])
    assert returns[-1] == pytest.approx(result["agents"][0]["scores"][0], abs=1e-5)
    observation, action = tracks["observation", "observation"], tracks["agent", "action"]
    assert observation["labels"] == action["labels"] == ["♠ spades", "♦ diamonds", "♣ clubs", "♥ hearts"]
    assert set(array_of(page, observation["values"]).sum(axis=1)) == {254}  # one-hot
    probabilities = array_of(page, action["values"])
    taken = probabilities[np.arange(51), array_of(page, action["taken"])]
    np.testing.assert_array_equal(taken, probabilities.max(axis=1))  # deterministic


@pytest.mark.parametrize(
    ("limit", "shown"),
    [(5, "1 of 3 episodes shown, the last incomplete"), (51, "1 of 3 episodes shown"), (153, None)],
)
def test_episodes_that_are_left_out_are_noted(ppo_run, capsys, limit, shown):
    watch(ppo_run, PlayOptions(episodes=3, max_steps=limit))
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: stopped")]
    assert notes == ([] if shown is None else [f"note: stopped after {limit} steps (max_steps): {shown}"])


def test_the_page_is_opened_in_a_browser(ppo_run, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    assert main(["watch", str(ppo_run.path), "--open", "--out", str(tmp_path / "page.html")]) == 0
    assert opened == [(tmp_path / "page.html").as_uri()]


def test_two_runs_of_an_environment_are_compared_on_the_same_episodes(ppo_run, tmp_path):
    other = train_run("popgym/repeat_previous_easy", tmp_path, *SHORT, "core=lstm", "memory.lstm.hidden_size=8")
    page = watch(ppo_run, PlayOptions(seed=3), compare=other, out=tmp_path / "page.html")
    text = page.path.read_text()
    first, second = (source["episodes"][0] for source in document_of(text)["sources"])
    seen = []
    for episode in (first, second):
        (track,) = (track for track in episode["tracks"] if track["group"] == "observation")
        seen.append(array_of(text, track["values"]))
    np.testing.assert_array_equal(*seen)
    assert "memory" in first and "memory" not in second
    again = watch(ppo_run, PlayOptions(seed=3), compare=other)
    assert again.path.read_text() == text


def test_pages_never_replace_each_other(ppo_run, tmp_path):
    assert len({watch(ppo_run, PlayOptions(max_steps=2)).path for _ in range(3)}) == 3
    out = tmp_path / "page.html"
    out.write_text("mine")
    with pytest.raises(InputError, match=r"page.html': exists already; choose another name or delete it"):
        watch(ppo_run, PlayOptions(), out=out)
    assert out.read_text() == "mine"


@pytest.mark.parametrize("out", [["--out", "page.html"], []])
def test_a_file_that_cannot_be_written_is_an_error_before_an_episode_is_played(ppo_run, capsys, monkeypatch, out):
    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files, "open", denied, raising=False)
    assert main(["watch", str(ppo_run.path), *out]) == 3
    error = capsys.readouterr().err
    assert error.endswith(".html: cannot be written: Permission denied\n") and error.count("\n") == 1


def test_a_supervised_run_shows_sequences(tmp_path, capsys):
    run = train_copy(tmp_path)
    assert main(["watch", str(run.path), "--difficulty", "length=5", "--out", str(tmp_path / "page.html")]) == 0
    document = document_of((tmp_path / "page.html").read_text())
    (episode,) = document["sources"][0]["episodes"]
    assert document["title"] == "copy" and "length=5" in document["sources"][0]["details"]
    assert [track["name"] for track in episode["tracks"][:4]] == ["inputs", "targets", "answers", "errors"]
    assert episode["steps"] == 11 and "bits wrong" in episode["name"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--episodes", "0"], "episodes = 0: must be at least 1"),
        (["--max-steps", "x"], "argument --max-steps: 'x': must be an integer from 1 to 1,000,000,000"),
        (["--max-steps", "0"], "max_steps = 0: must be at least 1"),
        (["--out", "no/page.html"], "out = 'no/page.html': no such folder: no"),
        (["--out", "page.txt"], "out = 'page.txt': must end in .html"),
        (
            ["--compare", "nothing"],
            "--compare = 'nothing': no such folder; a run is the folder whose path `ntm-rl train` prints",
        ),
        (["--best"], "no best agent yet"),
        (["--difficulty", "length=5"], "only for runs of supervised tasks"),
    ],
)
def test_invalid_arguments_are_one_line(ppo_run, capsys, arguments, message):
    assert main(["watch", str(ppo_run.path), *arguments]) == 2
    assert message in (error := capsys.readouterr().err) and error.count("\n") == 1


def test_runs_of_other_environments_are_not_compared(ppo_run, tmp_path):
    with pytest.raises(InputError, match="a run of copy; must be one of popgym-RepeatPreviousEasy-v0"):
        watch(ppo_run, PlayOptions(), compare=train_copy(tmp_path))


def test_a_training_writes_pages_and_is_not_changed_by_them(tmp_path):
    settings = ("popgym/repeat_previous_easy", tmp_path, *TINY_PPO, "core=ntm", *SMALL_NTM, "total_timesteps=256")
    plain = train_run(*settings)
    watched = train_run(*settings, "watch.every=100", "wandb=offline")
    assert sorted(path.name for path in (watched.path / "watch").iterdir()) == ["step-128.html", "step-256.html"]
    weights = [read_tensors(run.agent / "weights.safetensors")[0] for run in (plain, watched)]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
    _, history, _ = read_wandb(watched.path)
    assert sum(any(key.startswith("watch/page") for key in row) for row in history) == 2


def test_a_supervised_training_writes_pages(tmp_path):
    run = train_run("algorithmic/copy", tmp_path, *TINY_COPY, *SMALL_NTM, "watch.every=40")
    assert [path.name for path in (run.path / "watch").iterdir()] == ["sequence-40.html"]


def test_a_page_that_fails_does_not_end_the_training(tmp_path, capsys, monkeypatch):
    def broken(*_, **__):
        raise InputError("the emulator died")

    monkeypatch.setattr(module, "play_run", broken)
    settings = ("core=ntm", *SMALL_NTM, "total_timesteps=64", "watch.every=1")
    run = train_run("popgym/repeat_previous_easy", tmp_path, *TINY_PPO, *settings)
    assert "note: watch.every: no page at step 64: the emulator died" in capsys.readouterr().err
    assert run.agent.is_dir()
