"""Directives that make tables of options from the code, so that no page repeats a default.

`core-options:: NAME` lists a core's options, `config-keys:: ppo` (or `supervised`) the keys of a configuration,
`task-options:: NAME` those of a supervised task. `env-page:: MODULE:CLASS` shows a class docstring written in Markdown.
"""

import inspect
from importlib import import_module
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

Row = tuple[str, str, str, str]  # key, type, default, meaning


def option_rows(kind: str) -> list[Row]:
    """Returns the keys of a kind of training, those of `memory.<core>` left out."""
    from ntm_rl.agents.settings.loading import describe_schema, schema_of

    rows = describe_schema(schema_of({"task": {}} if kind == "supervised" else {}))
    return [row for row in rows if not row[0].startswith(("memory.", "task."))]


def core_rows(name: str) -> list[Row]:
    """Returns the options of a core."""
    from ntm_rl.agents.settings.loading import describe_schema, schema_of

    prefix = f"memory.{name}."
    rows = describe_schema(schema_of({}))
    return [(key.removeprefix(prefix), *rest) for key, *rest in rows if key.startswith(prefix)]


def task_rows(name: str) -> list[Row]:
    """Returns the options of a supervised task."""
    from ntm_rl.agents.settings.loading import describe_schema, schema_of

    prefix = f"task.{name}."
    rows = describe_schema(schema_of({"task": {}}))
    return [(key.removeprefix(prefix), *rest) for key, *rest in rows if key.startswith(prefix)]


class OptionTable(SphinxDirective):
    """A table of options: key, type, default, meaning."""

    required_arguments = 1

    def rows(self, name: str) -> list[Row]:
        """Returns the table's rows."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """Builds the table."""
        table = nodes.table(classes=["option-table"])
        group = nodes.tgroup(cols=4)
        table += group
        for width in (24, 16, 14, 46):
            group += nodes.colspec(colwidth=width)
        head, body = nodes.thead(), nodes.tbody()
        head += _row([nodes.paragraph(text=text) for text in ("key", "type", "default", "meaning")])
        for key, kind, default, meaning in self.rows(self.arguments[0]):
            body += _row([*(_code(text) for text in (key, kind, default)), nodes.paragraph(text=meaning)])
        group += [head, body]
        return [table]


def _code(text: str) -> nodes.paragraph:
    paragraph = nodes.paragraph()
    paragraph += nodes.literal(text=text)
    return paragraph


def _row(cells: list[nodes.paragraph]) -> nodes.row:
    row = nodes.row()
    for cell in cells:
        entry = nodes.entry()
        entry += cell
        row += entry
    return row


class CoreOptions(OptionTable):
    """The options of a core."""

    def rows(self, name: str) -> list[Row]:
        """See `core_rows`."""
        return core_rows(name)


class TaskOptions(OptionTable):
    """The options of a supervised task."""

    def rows(self, name: str) -> list[Row]:
        """See `task_rows`."""
        return task_rows(name)


class EnvPage(SphinxDirective):
    """The docstring of an environment's class: Gymnasium writes these in Markdown."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parses the docstring as a part of the page."""
        module, _, name = self.arguments[0].partition(":")
        text = inspect.getdoc(getattr(import_module(module), name)) or ""
        # Headings inside a directive are not allowed; the page's own headings name the environments.
        lines = [f"**{line[3:]}**" if line.startswith("## ") else line for line in text.splitlines()]
        container = nodes.Element()
        self.state.nested_parse(StringList(lines, source=name), self.content_offset, container)
        return list(container.children)


class ConfigKeys(OptionTable):
    """The keys of a configuration."""

    def rows(self, name: str) -> list[Row]:
        """See `option_rows`."""
        return option_rows(name)


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the directives."""
    app.add_directive("core-options", CoreOptions)
    app.add_directive("config-keys", ConfigKeys)
    app.add_directive("task-options", TaskOptions)
    app.add_directive("env-page", EnvPage)
    return {"parallel_read_safe": True}
