"""Builds the page from episodes."""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, get_args

import numpy as np

from ntm_rl.agents.inspection.episode import AnsweredSequence, Episode
from ntm_rl.agents.inspection.page.arrays import ArrayPacker
from ntm_rl.agents.inspection.page.colours import Scale, Theme, table
from ntm_rl.agents.inspection.page.images import MAX_BYTES, encode_frames
from ntm_rl.agents.inspection.page.tracks import TrackBuilder

SCRIPTS = ("numbers.js", "track.js", "episode.js", "player.js")
FPS = 4.0  # steps per second of playback at normal speed


@dataclass(frozen=True)
class Source:
    """An agent or network and what it played.

    Attributes:
        name: Name of the run.
        details: Lines about the agent.
        episodes: Episodes or sequences, each with its name.
        fps: Steps per second.
    """

    name: str
    details: Sequence[str]
    episodes: Sequence[tuple[str, Episode | AnsweredSequence]]
    fps: float = FPS


@np.errstate(all="ignore")  # numbers of a diverged agent may overflow
def build_page(title: str, sources: Sequence[Source]) -> str:
    """Returns a self-contained HTML page; it loads nothing and runs no script but its own.

    Args:
        title: Title, such as the environment's id.
        sources: One agent, or several that are shown side by side.
    """
    packer = ArrayPacker()
    budget = MAX_BYTES // max(1, sum(len(source.episodes) for source in sources))
    document = {
        "title": title,
        "fps": sources[0].fps,
        "colours": {
            theme: {scale: _base64(table(scale, theme).tobytes()) for scale in get_args(Scale)}
            for theme in get_args(Theme)
        },
        "sources": [
            {
                "name": source.name,
                "details": list(source.details),
                "episodes": [_episode(name, each, packer, budget) for name, each in source.episodes],
            }
            for source in sources
        ],
    }
    return assemble(_json(document), packer.text())


def assemble(document: str, arrays: str) -> str:
    """Returns the page of a document, which is JSON without tags, and of its packed arrays."""
    script, style = "\n".join(map(_read, SCRIPTS)), _read("page.css")
    parts = {
        "POLICY": f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:",
        "STYLE": style,
        "DOCUMENT": document,
        "ARRAYS": arrays,
        "SCRIPT": script,
    }
    head, *rest = _read("page.html").split("{{")  # in one pass, so that no part is searched for names of others
    return head + "".join(parts[name] + text for name, text in (piece.split("}}", 1) for piece in rest))


def _read(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _episode(name: str, episode: Episode | AnsweredSequence, packer: ArrayPacker, budget: int) -> dict[str, Any]:
    builder = TrackBuilder(packer)
    memory = builder.memory(episode.memory)
    if isinstance(episode, AnsweredSequence):
        tracks, frames, steps = builder.sequence(episode), None, len(episode.mask)
    else:
        tracks, frames, steps = builder.episode(episode), encode_frames(episode.frames, budget), len(episode.rewards)
    return {**memory, "name": name, "steps": steps, "frames": frames, "tracks": [*tracks, *memory["tracks"]]}


def _json(document: Any) -> str:
    """Returns JSON that can stand in a script element: no tag or comment can begin or end in it."""
    text = json.dumps(document, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(content: str) -> str:
    return f"'sha256-{_base64(hashlib.sha256(content.encode()).digest())}'"


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
