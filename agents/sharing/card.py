"""The model card of a published agent, README.md with front matter, and its results."""

from typing import Any

import yaml

from ntm_rl.agents.inspection.evaluation import Evaluation
from ntm_rl.agents.runs.loading import RunAgent
from ntm_rl.agents.settings.schema import PpoTrainingSettings
from ntm_rl.agents.storage.hub import Repository
from ntm_rl.envs.wrappers.action_masks import MaskFormat

SHOWN = {"replay.mp4": "is a video of an episode", "memory.html": "plays an episode beside the memory"}
TRUST = (
    " The module of the environment or core is not among them: install it, or put it into the current folder, and add "
    "`--trust` to the commands."
)


def results_of(settings: PpoTrainingSettings, result: Evaluation, seed: int) -> dict[str, Any]:
    """Returns the results of an evaluation as JSON values."""
    return {
        "environment": settings.env.id,
        "core": settings.core_name,
        "agent": "best" if result.origin.is_best else "last",
        "steps": result.origin.step,
        "mean_reward": result.mean_return,
        "std_reward": result.std_return,
        "episodes": result.ended,
        "seed": seed,
        "deterministic": True,
        "mean_length": result.mean_length,
        "success_rate": result.success_rate,
    }


def model_card(
    repository: Repository, settings: PpoTrainingSettings, agent: RunAgent, results: dict[str, Any], files: list[str]
) -> str:
    """Returns the model card.

    Args:
        repository: The repository.
        settings: The settings of the run.
        agent: The agent.
        results: From `results_of`.
        files: Names of the other files.
    """
    front = yaml.safe_dump(_front_matter(repository, results), sort_keys=False, allow_unicode=True)
    reward = _reward(results)
    steps = "unknown" if results["steps"] is None else f"{results['steps']:,}"
    rows = {
        "Environment": f"`{_plain(settings.env.id)}`",
        "Memory core": f"`{_plain(settings.core_name)}`",
        "Environment steps": f"{steps} (the {results['agent']} agent), training seed {settings.seed}",
        "Mean reward": f"{reward}: {_episodes(results)}, most likely actions, seed {results['seed']}",
        **{name: _plain(number) for name, number in agent.card["versions"].items()},
    }
    table = "\n".join(["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows.items())])
    shown = "".join(f"\n[`{name}`]({name}) {text}.\n" for name, text in SHOWN.items() if name in files)
    trust = TRUST if settings.user_modules else ""
    masks = MaskFormat(agent.policy.action_space).size if settings.env.action_masks is True else None
    imports = "" if masks is None else "import numpy as np\n\n"
    mask_line = (
        "" if masks is None else f"masks = np.ones({masks}, bool)  # true for each allowed value of the action\n"
    )
    mask_argument = "" if masks is None else ", action_masks=masks"
    return f"""---
{front}---

# {_plain(settings.core_name)} on {_plain(settings.env.id)}

An agent with memory, trained by ntm-rl.
{shown}
{table}

## Use

```
pip install "ntm-rl[hub]"
ntm-rl pull {repository.name} agent
ntm-rl evaluate agent --episodes {results["episodes"]} --seed {results["seed"]}
```

```python
{imports}from ntm_rl.agents import load_agent

agent = load_agent("hf://{repository.name}")
observation = agent.policy.observation_space.sample()  # or from the environment
{mask_line}action, state = agent.predict(observation, episode_start=True{mask_argument}, deterministic=True)
# At the next steps of the episode:
action, state = agent.predict(observation, state, episode_start=False{mask_argument}, deterministic=True)
```

The files load without pickle and without code from the repository.{trust}

## Train

`config.yaml` has all settings of the training:

```
ntm-rl train agent/config.yaml
```
"""


def _front_matter(repository: Repository, results: dict[str, Any]) -> dict[str, Any]:
    environment = results["environment"]
    metric = {"type": "mean_reward", "value": _reward(results), "name": "mean_reward", "verified": False}
    kind = "reinforcement-learning"
    return {
        "library_name": "ntm-rl",
        "pipeline_tag": kind,
        "tags": ["ntm-rl", kind, "deep-reinforcement-learning", "memory", results["core"], environment],
        "model-index": [
            {
                "name": repository.name.partition("/")[2],
                "results": [
                    {
                        "task": {"type": kind, "name": kind},
                        "dataset": {"name": environment, "type": environment},
                        "metrics": [metric],
                    }
                ],
            }
        ],
    }


def _episodes(results: dict[str, Any]) -> str:
    return f"{results['episodes']} episode{'' if results['episodes'] == 1 else 's'}"


def _reward(results: dict[str, Any]) -> str:
    return f"{results['mean_reward']:.2f} +/- {results['std_reward']:.2f}"


def _plain(text: Any) -> str:
    """Returns a text that Markdown and HTML show as it is, on one line."""
    replaced = {"|": "\\|", "<": "&lt;", ">": "&gt;", "`": "'", "[": "\\[", "]": "\\]"}
    return "".join(replaced.get(letter, letter) for letter in " ".join(str(text).split()))
