"""Suggests an environment id for an unknown one."""

import re
import warnings
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module

import gymnasium as gym

# Id prefixes, with the package that registers the ids and the extra that installs it.
FAMILIES = {
    "popgym-": ("popgym", "popgym"),
    "MiniGrid-": ("minigrid", "minigrid"),
    "BabyAI-": ("minigrid", "minigrid"),
    "ALE/": ("ale_py", None),
}
CUTOFF = 0.6  # lowest similarity, from 0 to 1, of a suggestion
_PREFIX = re.compile(r"^(popgym|minigrid|babyai)-", re.IGNORECASE)
_VERSION = re.compile(r"-v(\d+)$")
_ATARI_SUFFIX = re.compile(r"(-ram)?(NoFrameskip|Deterministic)?$")  # of OpenAI Gym's ids


def suggest_id(name: str) -> str:
    """Returns `" Did you mean ID?"` for the id that `name` most likely means, or an empty string.

    The comparison ignores case, underscores, version, namespace, family prefixes and the suffixes of OpenAI Gym's Atari
    ids: `pong`, `Pong-v0`, `PongNoFrameskip-v4` and `ALE/Pong` all suggest `ALE/Pong-v5`. It covers all installed
    families, imported or not.
    """
    for module, _ in FAMILIES.values():
        with warnings.catch_warnings(), suppress(Exception):  # a missing package has no suggestions
            warnings.simplefilter("ignore")
            import_module(module)
    ids: dict[str, str] = {}
    for env_id in sorted((each for each in gym.registry if not is_legacy_atari(each)), key=_version):
        key = _key(env_id)
        if not ("/" in env_id and key in ids and "/" not in ids[key]):  # CartPole-v1 before phys2d/CartPole-v1
            ids[key] = env_id
    wanted = _key(name.rpartition(":")[2])
    nearest = get_close_matches(wanted, ids, n=1, cutoff=CUTOFF)
    return f" Did you mean {ids[nearest[0]]}?" if nearest else ""


def is_legacy_atari(env_id: str) -> bool:
    """Whether an id is one of OpenAI Gym's for Atari, such as `PongNoFrameskip-v4`, which ALE registers too."""
    if env_id.startswith("ALE/"):
        return False
    specs = [gym.registry[env_id]] if env_id in gym.registry else gym.registry.values()
    return any(
        str(spec.entry_point).startswith("ale_py") and env_id in (spec.id, _VERSION.sub("", spec.id)) for spec in specs
    )


def _key(env_id: str) -> str:
    """Returns the part of an id that is compared."""
    name = _VERSION.sub("", env_id.rpartition("/")[2])
    name = _ATARI_SUFFIX.sub("", _PREFIX.sub("", name), count=1)
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _version(env_id: str) -> int:
    found = _VERSION.search(env_id)
    return int(found[1]) if found else -1
