"""The Python code of a model card runs for every kind of space, and its counts are grammatical."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

import ntm_rl.agents
from exported import make_agent
from ntm_rl.agents.runs.loading import Origin, RunAgent
from ntm_rl.agents.settings.loading import load_settings
from ntm_rl.agents.sharing.card import model_card
from ntm_rl.agents.storage.hub import Repository

BOX = spaces.Box(-1, 1, (3,), np.float32)
DICT = spaces.Dict({"position": BOX, "key": spaces.Discrete(3)})
IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)
RESULTS: dict[str, Any] = {
    **{"environment": "CartPole-v1", "core": "lstm", "agent": "last", "steps": 64, "seed": 1, "episodes": 2},
    **{"mean_reward": 20.0, "std_reward": 1.0},
}


def card_of(observations: spaces.Space, actions: spaces.Space, *overrides: str, **results: Any) -> tuple[str, RunAgent]:
    """The model card of a new agent, and the agent."""
    made = make_agent(observations, actions, core_kwargs={"hidden_size": 8})
    card = {**made.card, "versions": {}}
    agent = RunAgent(made.policy, card, made.statistics, Origin(False, Path("agent"), 64))
    settings = load_settings("CartPole-v1", overrides)
    return model_card(Repository("ann/agent"), settings, agent, {**RESULTS, **results}, []), agent


@pytest.mark.parametrize("masks", ["false", "true"])
@pytest.mark.parametrize("observations", [BOX, DICT, IMAGE], ids=["box", "dict", "image"])
@pytest.mark.parametrize("actions", [spaces.Discrete(4), spaces.MultiDiscrete([3, 2])], ids=["discrete", "multi"])
def test_the_python_code_of_a_card_runs(observations, actions, masks, monkeypatch):
    text, agent = card_of(observations, actions, f"env.action_masks={masks}")
    monkeypatch.setattr(ntm_rl.agents, "load_agent", {"hf://ann/agent": agent}.get)
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert ("action_masks=masks" in code) == (masks == "true")
    exec(code, found := {})
    assert actions.contains(found["action"])


@pytest.mark.parametrize(("episodes", "shown"), [(1, "1 episode,"), (2, "2 episodes,")])
def test_one_episode_is_singular(episodes, shown):
    assert f": {shown}" in card_of(BOX, spaces.Discrete(2), episodes=episodes)[0]
