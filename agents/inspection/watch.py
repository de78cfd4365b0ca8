"""Writes a page that plays episodes of a trained agent, or sequences of a network, beside the memory."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ntm_rl.agents.inspection.episode import Episode, PlayOptions, answer, play_run
from ntm_rl.agents.inspection.new_files import new_file
from ntm_rl.agents.inspection.page.build import FPS, Source, build_page
from ntm_rl.agents.policy.sequence_network import SequenceNetwork
from ntm_rl.agents.runs.loading import Origin, RunAgent, load_run_agent, load_run_network
from ntm_rl.agents.runs.run import Run
from ntm_rl.agents.settings.loading import AnySettings
from ntm_rl.agents.settings.schema import PpoTrainingSettings, SupervisedTrainingSettings
from ntm_rl.agents.storage.files import write_atomically
from ntm_rl.agents.supervised.scores import label
from ntm_rl.errors import InputError

SUFFIXES = (".html", ".htm")


@dataclass(frozen=True)
class WatchedPage:
    """A page that was written.

    Attributes:
        path: The HTML file.
        size: Its size in bytes.
        origins: The agents' sources.
        scores: Returns of each agent's episodes, or the numbers of wrong bits of a network's sequences.
    """

    path: Path
    size: int
    origins: list[Origin]
    scores: list[list[float]]


def watch(run: Run, options: PlayOptions, *, compare: Run | None = None, out: Path | None = None) -> WatchedPage:
    """Plays episodes or sequences and writes the page.

    Args:
        run: A run.
        options: The episodes or sequences to play.
        compare: A second run of the same environment or task, which is shown beside the first.
        out: The HTML file, which must not exist; default: a new file in the run's `watch/`.

    Raises:
        InputError: no agent, runs that do not fit each other, invalid options, or an existing `out`.
        WriteError: the file cannot be written.
    """
    options.check()
    runs = [run] if compare is None else [run, compare]
    titles = [title_of(each.settings()) for each in runs]
    if len(set(titles)) > 1:
        raise InputError(f"compare: a run of {titles[1]}; must be one of {titles[0]}, as the other run")
    path = new_file(run, "watch", SUFFIXES, out, options.seed)
    sources, origins, scores = zip(*(_source(each, options) for each in runs), strict=True)
    content = build_page(titles[0], sources).encode()
    write_atomically(path, content)
    return WatchedPage(path, len(content), list(origins), list(scores))


def title_of(settings: AnySettings) -> str:
    """Returns the environment or task of a training."""
    return str(settings.task.name if isinstance(settings, SupervisedTrainingSettings) else settings.env.id)


def _source(run: Run, options: PlayOptions) -> tuple[Source, Origin, list[float]]:
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
    name: str, agent: RunAgent, settings: PpoTrainingSettings, options: PlayOptions
) -> tuple[Source, list[float]]:
    """Plays an agent's episodes; returns what the page shows, and the returns."""
    episodes, fps = play_run(agent, settings, options)
    if len(episodes) < options.episodes or not episodes[-1].ended:
        incomplete = "" if episodes[-1].ended else ", the last incomplete"
        shown = f"{len(episodes)} of {options.episodes} episodes shown{incomplete}"
        print(f"note: stopped after {options.max_steps:,} steps (max_steps): {shown}", file=sys.stderr)
    details = [settings.core, *_origin_details(agent.origin), f"seed {options.seed}"]
    named = [(_episode_name(number, each), each) for number, each in enumerate(episodes, start=1)]
    return Source(name, details, named, fps), [float(each.rewards.sum()) for each in episodes]


def sequences_source(
    name: str, network: SequenceNetwork, settings: SupervisedTrainingSettings, options: PlayOptions
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
    return f"episode {number}: return {episode.rewards.sum():.5g} in {len(episode.rewards)} steps{success}{ended}"
