"""YAML of configurations: nothing in it is evaluated, and its size is bounded before anything is built."""

import re
from collections import Counter
from collections.abc import Hashable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ntm_rl.errors import InputError

MAX_CHARACTERS = 200_000
MAX_SCALAR = 10_000  # characters of a single value
MAX_DEPTH = 30
MAX_NODES = 10_000  # values and keys, after aliases are expanded
MAX_INTEGER = 2**63

# YAML 1.1 takes 1e-4 for text, 010 for 8 and 1:30 for 90.
_INTEGER = re.compile(r"^[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)$")
_FLOAT = re.compile(
    r"^[-+]?([0-9][0-9_]*\.[0-9_]*([eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+|\.[0-9][0-9_]*([eE][-+]?[0-9]+)?"
    r"|\.(inf|Inf|INF))$|^\.(nan|NaN|NAN)$"
)
_TAG = "tag:yaml.org,2002:"
_TAGS = ("null", "bool", "int", "float", "str", "seq", "map")


class Typed(NamedTuple):
    """A value that is no text, with the text that was typed for it."""

    value: Any
    text: str


class YamlError(InputError):
    """A text that is no YAML, or too large."""


class _Loader(yaml.SafeLoader):
    """Reads numbers, booleans and null as `Typed`, keys such as `on` as text, and dates as the text that they are."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        value = super().construct_object(node, deep)
        if isinstance(value, str):
            return _checked(value)
        if not isinstance(node, yaml.ScalarNode):
            return value
        if isinstance(value, int) and abs(value) > MAX_INTEGER:
            raise YamlError(f"{_short(node.value)}: an integer must fit into 64 bits")
        return Typed(value, node.value)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for key, times in keys.items():
            if times > 1:
                raise YamlError(f"{_short(key)}: the key is there twice (line {node.start_mark.line + 1} on)")
        mapping = super().construct_mapping(node, deep=True)
        for key in mapping:
            if not isinstance(key, str) and not (isinstance(key, Typed) and isinstance(key.value, (bool, type(None)))):
                text = key.text if isinstance(key, Typed) else str(key)
                raise YamlError(f"{_short(text)}: a key must be text; put quotes around it if that is meant")
        return {key.text if isinstance(key, Typed) else key: value for key, value in mapping.items()}


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _checked(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise YamlError(f"{text[:60]!a}: is no Unicode text") from error
    return text


_NOT_TAKEN = [f"{_TAG}{name}" for name in ("timestamp", "int", "float")]
_Loader.yaml_implicit_resolvers = {
    key: [each for each in group if each[0] not in _NOT_TAKEN]
    for key, group in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(f"{_TAG}float", _FLOAT, list("-+0123456789."))
_Loader.add_implicit_resolver(f"{_TAG}int", _INTEGER, list("-+0123456789"))
_Loader.yaml_constructors = {
    tag: make
    for tag, make in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag in [f"{_TAG}{name}" for name in _TAGS]
}


def read_yaml(text: str) -> Any:
    """Reads YAML; numbers, booleans and null come as `Typed`.

    Raises:
        YamlError: no YAML, more than one document, a key twice, or too large, too deep or too much by its aliases.
    """
    try:
        _check_bounds(text)
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
        told = [part for part in (error.context, error.problem) if part]
        raise YamlError(f"{', '.join(told)}{where}") from error
    except yaml.YAMLError as error:
        raise YamlError(" ".join(str(error).split())) from error
    except (ValueError, TypeError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise YamlError(f"{type(error).__name__}: {_short(str(error))}") from error


def read_bounded(path: Path) -> str:
    """Returns the text of a file, but no more than `read_yaml` takes.

    Raises:
        OSError, UnicodeDecodeError: it cannot be read.
        YamlError: it is larger.
    """
    with path.open("rb") as file:
        content = file.read(4 * MAX_CHARACTERS + 1)
    if len(content) > 4 * MAX_CHARACTERS:
        raise YamlError(f"longer than {MAX_CHARACTERS:,} characters, which no configuration is")
    return content.decode()


def to_yaml_text(value: Any) -> str:
    """Returns plain values as YAML that `read_yaml` reads as the same."""
    return yaml.dump(value, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)


def plain(value: Any) -> Any:
    """Returns what `read_yaml` returned without the typed text."""
    if isinstance(value, Typed):
        return value.value
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list) else value


class _Size:
    """How many nodes a part of a text has, and how deep they go, counting what its aliases stand for."""

    def __init__(self, anchor: str | None = None):
        self.anchor, self.nodes, self.depth = anchor, 1, 1

    def add(self, part: "_Size") -> None:
        self.nodes += part.nodes
        self.depth = max(self.depth, part.depth + 1)


def _check_bounds(text: str) -> None:
    """Goes through the events of a text, which takes no more memory than the text, and expands nothing."""
    if len(text) > MAX_CHARACTERS:
        raise YamlError(f"longer than {MAX_CHARACTERS:,} characters, which no configuration is")
    anchors: dict[str | None, _Size] = {}
    under_way = [_Size()]
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            under_way.append(_Size(event.anchor))
        elif isinstance(event, yaml.CollectionEndEvent):
            whole = under_way.pop()
            anchors[whole.anchor] = whole
            under_way[-1].add(whole)
        elif isinstance(event, yaml.NodeEvent):
            under_way[-1].add(_leaf(event, anchors))
        if len(under_way) + under_way[-1].depth > MAX_DEPTH:
            raise YamlError(f"nested more than {MAX_DEPTH} deep")
        if under_way[-1].nodes > MAX_NODES:
            raise YamlError(f"more than {MAX_NODES:,} values after its aliases are expanded")


def _leaf(event: yaml.NodeEvent, anchors: dict[str | None, _Size]) -> _Size:
    """Returns the size of a scalar, or of what an alias stands for."""
    if isinstance(event, yaml.AliasEvent):
        if event.anchor not in anchors:
            raise YamlError(f"*{event.anchor}: an alias of what contains it, or of nothing")
        return anchors[event.anchor]
    assert isinstance(event, yaml.ScalarEvent)
    if len(event.value) > MAX_SCALAR:
        raise YamlError(f"{_short(event.value)}: a value must have at most {MAX_SCALAR:,} characters")
    anchors[event.anchor] = _Size()
    return anchors[event.anchor]


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:40]}...")
