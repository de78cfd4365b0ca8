"""Reads and writes the YAML of configs; nothing is evaluated, and the size is checked before anything is built."""

import re
from collections import Counter
from collections.abc import Hashable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ntm_rl.errors import InputError

MAX_CHARACTERS = 200_000
MAX_SCALAR = 10_000  # characters of a value
MAX_DEPTH = 30
MAX_NODES = 10_000  # keys and values after expanding aliases
MAX_INTEGER = 2**63

# YAML 1.1 reads 1e-4 as text, 010 as 8 and 1:30 as 90.
_INTEGER = re.compile(r"^[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)$")
_FLOAT = re.compile(
    r"^[-+]?([0-9][0-9_]*\.[0-9_]*([eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+|\.[0-9][0-9_]*([eE][-+]?[0-9]+)?"
    r"|\.(inf|Inf|INF))$|^\.(nan|NaN|NAN)$"
)
_TAG = "tag:yaml.org,2002:"
_TAGS = ("null", "bool", "int", "float", "str", "seq", "map")


class Typed(NamedTuple):
    """A number, boolean or null, with its original text."""

    value: Any
    text: str


class YamlError(InputError):
    """Invalid or too large YAML."""


class TooLongError(YamlError):
    """Too many characters."""


class _Loader(yaml.SafeLoader):
    """Loads numbers, booleans and null as `Typed`, and keys such as `on` and dates as text."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        value = super().construct_object(node, deep)
        if isinstance(value, str):
            return _checked(value)
        if not isinstance(node, yaml.ScalarNode):
            return value
        if isinstance(value, int) and abs(value) > MAX_INTEGER:
            raise YamlError(f"{_short(node.value)}: integers must fit in 64 bits")
        return Typed(value, node.value)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for key, times in keys.items():
            if times > 1:
                raise YamlError(f"{_short(key)}: duplicate key (from line {node.start_mark.line + 1})")
        mapping = super().construct_mapping(node, deep=True)
        for key in mapping:
            if not isinstance(key, str) and not (isinstance(key, Typed) and isinstance(key.value, (bool, type(None)))):
                text = key.text if isinstance(key, Typed) else str(key)
                raise YamlError(f"{_short(text)}: a key must be text; put it in quotes")
        return {key.text if isinstance(key, Typed) else key: value for key, value in mapping.items()}


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _checked(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise YamlError(f"{text[:60]!a}: not valid Unicode") from error
    return text


_REPLACED = [f"{_TAG}{name}" for name in ("timestamp", "int", "float")]
_Loader.yaml_implicit_resolvers = {
    key: [each for each in group if each[0] not in _REPLACED]
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
    """Reads YAML; numbers, booleans and null are returned as `Typed`.

    Raises:
        YamlError: invalid YAML, more than one document, a duplicate key, or a text that is too large or too deep.
    """
    try:
        _check_bounds(text)
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
        parts = [part for part in (error.context, error.problem) if part]
        raise YamlError(f"{', '.join(parts)}{where}") from error
    except yaml.YAMLError as error:
        raise YamlError(" ".join(str(error).split())) from error
    except (ValueError, TypeError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise YamlError(f"{type(error).__name__}: {_short(str(error))}") from error


def read_bounded(path: Path) -> str:
    """Returns the text of a file.

    Raises:
        OSError, UnicodeDecodeError: the file cannot be read.
        YamlError: it is larger than `read_yaml` accepts.
    """
    with path.open("rb") as file:
        content = file.read(4 * MAX_CHARACTERS + 1)
    if len(content) > 4 * MAX_CHARACTERS:
        raise TooLongError(f"longer than {MAX_CHARACTERS:,} characters")
    return content.decode()


def to_yaml_text(value: Any) -> str:
    """Returns plain values as YAML; `read_yaml` restores them."""
    return yaml.dump(value, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)


def to_flow_text(value: Any) -> str:
    """Returns a plain value as YAML on one line, such as `[64, 64]`."""
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, allow_unicode=True, sort_keys=False, width=10**9)
    return text.removesuffix("...\n").strip()


def plain(value: Any) -> Any:
    """Converts the result of `read_yaml` to plain values, without `Typed`."""
    if isinstance(value, Typed):
        return value.value
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list) else value


class _Size:
    """Number of nodes and depth of a part of a document, with aliases expanded."""

    def __init__(self, anchor: str | None = None):
        self.anchor, self.nodes, self.depth = anchor, 1, 1

    def add(self, part: "_Size") -> None:
        self.nodes += part.nodes
        self.depth = max(self.depth, part.depth + 1)


def _check_bounds(text: str) -> None:
    """Checks the size of a document from its parser events, which do not expand aliases."""
    if len(text) > MAX_CHARACTERS:
        raise TooLongError(f"longer than {MAX_CHARACTERS:,} characters")
    anchors: dict[str | None, _Size] = {}
    open_parts = [_Size()]
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_parts.append(_Size(event.anchor))
        elif isinstance(event, yaml.CollectionEndEvent):
            part = open_parts.pop()
            anchors[part.anchor] = part
            open_parts[-1].add(part)
        elif isinstance(event, yaml.NodeEvent):
            open_parts[-1].add(_leaf(event, anchors))
        if len(open_parts) + open_parts[-1].depth > MAX_DEPTH:
            raise YamlError(f"nested more than {MAX_DEPTH} levels deep")
        if open_parts[-1].nodes > MAX_NODES:
            raise YamlError(f"more than {MAX_NODES:,} values after expanding aliases")


def _leaf(event: yaml.NodeEvent, anchors: dict[str | None, _Size]) -> _Size:
    """Returns the size of a scalar or of the target of an alias."""
    if isinstance(event, yaml.AliasEvent):
        if event.anchor not in anchors:
            raise YamlError(f"*{event.anchor}: unknown or recursive alias")
        return anchors[event.anchor]
    assert isinstance(event, yaml.ScalarEvent)
    if len(event.value) > MAX_SCALAR:
        raise YamlError(f"{_short(event.value)}: a value must have at most {MAX_SCALAR:,} characters")
    anchors[event.anchor] = _Size()
    return anchors[event.anchor]


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:40]}...")
