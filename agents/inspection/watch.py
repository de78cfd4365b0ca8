"""Writes a page that plays episodes of a trained agent, or sequences of a network, beside the memory."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ntm_rl.agents.inspection.episode import Episode, answer, play_episodes
from ntm_rl.agents.inspection.evaluation import check_counts, close, played_settings, prepare, seeded
from ntm_rl.agents.inspection.page.build import FPS, Source, build_page
from ntm_rl.agents.inspection.rendering import make_rendered_env
from ntm_rl.agents.policy.sequence_network import SequenceNetwork
from ntm_rl.agents.runs.loading import Origin, RunAgent, load_run_agent, load_run_network
from ntm_rl.agents.runs.run import Run
from ntm_rl.agents.settings.schema import PpoTrainingSettings, SupervisedTrainingSettings
from ntm_rl.agents.storage.files import write_atomically
from ntm_rl.agents.supervised.scores import label
from ntm_rl.envs.algorithmic.task import Difficulty
from ntm_rl.errors import InputError

MAX_STEPS = 500
SEED = 10_000
SUFFIXES = (".html", ".htm")


@dataclass(frozen=True)
class Options:
    """What is played.

    Attributes:
        episodes: Number of episodes or sequences.
        seed: Seed of the environment and of sampled actions, or of the sequences.
        deterministic: Take the most likely action instead of a sample.
        best: Use the best agent of the training instead of the last.
        max_steps: Limit of the steps of all episodes.
        difficulty: Difficulty of the sequences; None: the hardest of the training.
    """

    episodes: int = 1
    seed: int = SEED
    deterministic: bool = True
    best: bool = False
    max_steps: int = MAX_STEPS
    difficulty: Difficulty | None = None


@dataclass(frozen=True)
class WatchedPage:
    """A page that was written.

    Attributes:
        path: The HTML file.
        size: Its size in bytes.
        origins: The agents' sources.
        returns: Undiscounted returns of each agent's episodes; of a network, its numbers of wrong bits.
    """

    path: Path
    size: int
    origins: list[Origin]
    returns: list[list[float]]


def watch(
    run: Run,
    compare: Run | None = None,
    out: Path | None = None,
    options: Options = Options(),
) -> WatchedPage:
    """Plays episodes or sequences and writes the page.

    Args:
        run: A run.
        compare: A second run of the same environment or task, which is shown beside the first.
        out: The HTML file; default: a new file in the run's `watch/`.
        options: What is played.

    Raises:
        InputError: no agent, runs that do not fit each other, invalid options, or a file that cannot be written.
    """
    check_counts(options.seed, episodes=options.episodes, max_steps=options.max_steps)
    runs = [run] if compare is None else [run, compare]
    titles = [_title(each) for each in runs]
    if len(set(titles)) > 1:
        raise InputError(f"compare: a run of {titles[1]}; must be one of {titles[0]}, as the other run")
    path = _new_file(run, out, options.seed)
    sources, origins, returns = zip(*(_source(each, options) for each in runs), strict=True)
    content = build_page(titles[0], sources).encode()
    write_atomically(path, content)
    return WatchedPage(path, len(content), list(origins), list(returns))


def _title(run: Run) -> str:
    settings = run.settings()
    return str(settings.task.name if isinstance(settings, SupervisedTrainingSettings) else settings.env.id)


def _new_file(run: Run, out: Path | None, seed: int) -> Path:
    """Returns the file to write; default: a new one in the run's `watch/`."""
    if out is None:
        return run.make_folder("watch") / f"{time.strftime('%Y%m%d-%H%M%S')}-seed{seed}.html"
    if out.suffix not in SUFFIXES or not out.parent.is_dir():
        raise InputError(f"out = {str(out)!r}: must be a file ending in .html in a folder that exists")
    return out


def _source(run: Run, options: Options) -> tuple[Source, Origin, list[float]]:
    settings = run.settings()
    settings.import_core()
    if isinstance(settings, SupervisedTrainingSettings):
        network, origin = load_run_network(run, best=options.best)
        print(f"shows {settings.task.name} with {origin}", file=sys.stderr)
        source, wrong = sequences_source(run.path.name, network, settings, options)
        return source, origin, wrong
    assert isinstance(settings, PpoTrainingSettings)
    agent = load_run_agent(run, best=options.best)
    print(f"shows {settings.env.id} with {agent.origin}", file=sys.stderr)
    source, returns = episodes_source(run.path.name, agent, settings, options)
    return source, agent.origin, returns


def episodes_source(
    name: str, agent: RunAgent, settings: PpoTrainingSettings, options: Options
) -> tuple[Source, list[float]]:
    """Plays an agent's episodes; returns what the page shows, and the returns."""
    rendered = make_rendered_env(played_settings(settings.env_settings), options.seed)
    try:
        prepare(rendered.env, agent)
        with seeded(agent, options.seed, n_envs=1):
            episodes = play_episodes(
                agent,
                rendered.env,
                rendered.render,
                options.episodes,
                max_steps=options.max_steps,
                deterministic=options.deterministic,
            )
    finally:
        close(rendered.env)
    if not episodes[-1].ended:
        print(f"note: the last episode is shown until its limit of {options.max_steps:,} steps", file=sys.stderr)
    details = [settings.core, *_origin_details(agent.origin), f"seed {options.seed}"]
    named = [(_episode_name(number, each), each) for number, each in enumerate(episodes, start=1)]
    return Source(name, details, named, rendered.fps), [float(each.rewards.sum()) for each in episodes]


def sequences_source(
    name: str, network: SequenceNetwork, settings: SupervisedTrainingSettings, options: Options
) -> tuple[Source, list[float]]:
    """Lets a network answer sequences; returns what the page shows, and the numbers of wrong bits."""
    task = settings.make_task()
    difficulty = options.difficulty or {key: high for key, (_, high) in task.ranges.items()}
    rng = np.random.default_rng(options.seed)
    answered = [answer(network, task.sample(1, rng, difficulty)) for _ in range(options.episodes)]
    details = [settings.core, label(difficulty), f"seed {options.seed}"]
    named = [
        (f"sequence {number}: {each.wrong} of {each.mask.sum() * task.output_size} bits wrong", each)
        for number, each in enumerate(answered, start=1)
    ]
    return Source(name, details, named, FPS), [float(each.wrong) for each in answered]


def _origin_details(origin: Origin) -> Sequence[str]:
    step = [] if origin.step is None else [f"{origin.unit} {origin.step:,} of the training"]
    return [*step, *([] if origin.level is None else [f"level {origin.level}"])]


def _episode_name(number: int, episode: Episode) -> str:
    success = {None: "", True: ", success", False: ", no success"}[episode.success]
    ended = "" if episode.ended else ", not ended"
    return f"episode {number}: return {episode.rewards.sum():.3g} in {len(episode.rewards)} steps{success}{ended}"
