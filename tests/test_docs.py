"""The examples of the README and the guide: Python runs, commands run or are at least valid, files named exist."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from stable_baselines3.common.utils import set_random_seed

from ntm_rl.agents.cli.main import main, make_parser
from ntm_rl.cores import registry

ROOT = Path(__file__).parents[1]
PAGES = {page.stem: page for page in [ROOT / "README.md", *sorted((ROOT / "docs" / "guide").glob("*.md"))]}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
# Blocks that are files which the rest of the page uses.
FILES = {
    ("own_environment", "class Recall"): "recall.py",
    ("own_environment", "id: recall"): "recall.yaml",
    ("action_masks", "class Boxes"): "boxes.py",
}
TINY = [
    *("total_timesteps=256", "n_envs=4", "ppo.n_steps=32", "ppo.sequence_length=32", "ppo.batch_size=64"),
    *("ppo.n_epochs=1", "memory.ntm.slots=5", "memory.ntm.width=4", "memory.ntm.hidden_size=8", "wandb=disabled"),
    *("memory.ntm_block.slots=5", "memory.ntm_block.width=4", "memory.ntm_block.hidden_size=8"),
]
TINY_SUPERVISED = [
    "total_sequences=20",
    "validation.every=20",
    "log_every=20",
    "validation.sequences=4",
    "wandb=disabled",
]
# Pages whose commands are run; those of others train for long, or on what is not installed everywhere.
RUN = ("first_agent", "own_environment", "action_masks", "long_trainings", "watch")
ELSEWHERE = ("export", "share")  # pages whose Python examples other tests run


def blocks(page: str) -> list[tuple[str, str]]:
    return BLOCK.findall(PAGES[page].read_text())


def commands(page: str) -> list[str]:
    text = "\n".join(block for language, block in blocks(page) if language == "")
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [line.partition("  #")[0].strip() for line in lines if line.startswith("ntm-rl ")]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    assert main(["train", "popgym/repeat_previous_easy", *TINY, f"run_dir={folder}"]) == 0
    return next(path.parent for path in folder.rglob("config.yaml"))


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page not in ELSEWHERE and any(kind == "python" for kind, _ in blocks(page))],
)
def test_python_examples_run(page, request, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    registry.core_names()
    monkeypatch.setattr(registry, "_CORES", dict(registry._CORES))  # an example registers a core
    set_random_seed(0)
    for language, block in blocks(page):
        name = next((name for (where, text), name in FILES.items() if where == page and text in block), None)
        if name is not None:
            Path(name).write_text(block)
        elif language == "python":
            small = re.sub(r"learn\([\d_]+\)", "learn(256)", block).replace("n_eval_episodes=100", "n_eval_episodes=2")
            if '"RUN"' in small:
                small = small.replace("RUN", str(request.getfixturevalue("run")))
            exec(small, {})
    for name in FILES.values():
        sys.modules.pop(Path(name).stem, None)


@pytest.mark.parametrize("page", RUN)
def test_commands_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for _, block in blocks(page):
        for (where, text), name in FILES.items():
            if where == page and text in block:
                Path(name).write_text(block)
    run, steps = "", 256
    for line in commands(page):
        words = [word.replace("RUN", run) for word in shlex.split(line)[1:] if not word.startswith("total_timesteps=")]
        if words[0] == "train":
            words += [*(TINY_SUPERVISED if words[1].startswith("algorithmic/") else TINY), "--json"]
        elif words[0] == "resume":
            steps += 128
            words += [f"total_timesteps={steps}"]
        elif words[0] == "evaluate":
            words = [*words[:2], "--episodes", "2", "--max-steps", "200"]
        assert main(words) == 0, line
        out = capsys.readouterr().out
        run = json.loads(out)["run"] if words[0] == "train" else run
    for name in FILES.values():
        sys.modules.pop(Path(name).stem, None)


@pytest.mark.parametrize(
    ("page", "line"), [(page, line) for page in PAGES if page not in RUN for line in commands(page)]
)
def test_other_commands_are_valid(page, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line)[1:]
    if words[0] in ("train", "show") and words[1] != "my.yaml":
        words = [word for word in words if "RUN" not in word and word != "--keys"]
        assert main(["show", *words[1:]]) == 0
    elif words[0] == "list":
        assert main(words) == 0
    else:  # a run that is not there, and nothing else, is wrong
        assert main([*words, "--no-such-option"]) == 2
        assert "--no-such-option" in capsys.readouterr().err


def test_the_scripts_for_clusters_are_valid():
    for language, block in blocks("cluster"):
        if language == "bash":
            subprocess.run(["bash", "-n"], input=block, text=True, check=True)
        elif language == "yaml":
            job = yaml.safe_load(block)["spec"]
            words = shlex.split(job["entrypoint"])
            assert make_parser().parse_args(words[1:]).engine == "ray"
            version = re.search(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
            assert job["rayClusterSpec"]["rayVersion"] == version


def test_links_between_pages_lead_somewhere():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    links = [
        (page, link)
        for page in pages
        if "_build" not in page.parts
        for link in re.findall(r"\]\(([^)#:\s]+)\)", page.read_text())
    ]
    assert [(str(page), link) for page, link in links if not (page.parent / link).exists()] == []


def test_the_rl_zoo_example_is_yaml_that_names_our_policy():
    (block,) = [block for language, block in blocks("sb3_project") if language == "yaml"]
    (settings,) = yaml.safe_load(block).values()
    module, _, name = settings["policy"].rpartition(".")
    assert hasattr(__import__(module, fromlist=[name]), name)
