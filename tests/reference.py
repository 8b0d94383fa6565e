"""Write what is generated from the code, parts of docs/ and the options of verbs: `make docs`.

A part stands between `<!-- generated: name -->` and `<!-- end: name -->`. What a Python block shows stands after it,
between `<!-- output -->` and `<!-- end: output -->`. `tests/test_docs.py` checks that both are fresh.
"""

from __future__ import annotations

import ast
import inspect
import os
import pprint
import re
import tempfile
from contextlib import chdir, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import click
import pandas as pd

import dreamo_batch as dreamo
from dreamo_batch import cli, columns, errors, metrics
from dreamo_batch.engine import replica
from dreamo_batch.gateway import faults
from dreamo_batch.jobs import rules
from dreamo_batch.results import summaries
from dreamo_batch.service import contract
from tests import fault_table, tiny_models
from tests.benchmarks.report import HEAD, Figure, read_history
from tests.object_server import object_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
VERB_OPTIONS = ROOT / "dreamo_batch" / "verb_options.pyi"
BLOCK = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_OUTPUT = re.compile(r"\n\n<!-- output -->\n(.*?)<!-- end: output -->", re.DOTALL)
_PART = re.compile(r"(<!-- generated: (\S+) -->\n).*?(<!-- end: \2 -->)", re.DOTALL)


def pages() -> list[Path]:
    """Return every page of the docs."""
    return sorted(DOCS.rglob("*.md"))


def fresh(text: str) -> str:
    """Return the text with every generated part made anew."""
    return _PART.sub(lambda match: f"{match[1]}\n{PARTS[match[2]]()}\n\n{match[3]}", text)


def run_page(text: str, folder: Path) -> tuple[str, dict[str, Any]]:
    """Run the Python blocks of a page in a folder; return the page with what they show, and their names."""
    (folder / "data").symlink_to(ROOT / "data")
    (folder / "runs").mkdir()
    names: dict[str, Any] = {"__name__": "page"}
    pieces, end = [], 0
    with chdir(folder), _stand_ins():
        for block in BLOCK.finditer(text):
            if block[2] != "python":
                continue
            shown = _run(block[3], names)
            output = _OUTPUT.match(text, block.end())
            if output:
                pieces += [text[end : output.start(1)], f"\n```text\n{shown}\n```\n\n"]
                end = output.end(1)
    return "".join([*pieces, text[end:]]), names


def _run(code: str, names: dict[str, Any]) -> str:
    """Run a block as a notebook does: what its last line comes to is shown."""
    *lines, last = ast.parse(code).body
    if not isinstance(last, ast.Expr):
        lines.append(last)
    exec(compile(ast.Module(lines, []), "block", "exec"), names)  # noqa: S102 - our own docs
    if not isinstance(last, ast.Expr):
        return ""
    value = eval(compile(ast.Expression(last.value), "block", "eval"), names)  # noqa: S307 - our own docs
    with pd.option_context("display.width", 110, "display.max_columns", 20, "display.max_colwidth", 70):
        text = pprint.pformat(value, width=110, sort_dicts=False) if isinstance(value, dict) else str(value)
    return "\n".join(line.rstrip() for line in text.splitlines())


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Stand in for weights that would be fetched from a hub, and for an object store."""
    with tempfile.TemporaryDirectory() as folder:
        models = tiny_models.folder_of_all(Path(folder))

        def path(weights: metrics._Weights, name: str) -> Path:
            return models / Path(weights._files[name]["path"]).name

        with (
            object_server() as server,
            patch.dict(os.environ, server.environment | {replica.CACHE_VARIABLE: folder}),
            patch.object(metrics._Weights, "path", path),
        ):
            yield


def parts(text: str) -> list[str]:
    """Name the generated parts of a text."""
    return [match[2] for match in _PART.finditer(text)]


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    header = list(header)
    lines = [header, ["---"] * len(header), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _columns(table: Mapping[str, columns.Column]) -> str:
    rows = [(f"`{c.name}`", f"`{c.dtype}`", c.unit, c.meaning) for c in table.values()]
    return _table(("column", "dtype", "unit", "meaning"), rows)


def _facts() -> str:
    rows = [
        (f"`{name}`", _value(fact.value), fact.source, fact.note)
        for name, fact in vars(contract).items()
        if isinstance(fact, contract.Fact)
    ]
    return _table(("fact", "value", "source", "note"), rows)


def _models() -> str:
    """The facts of each model side by side, with their sources."""
    facts = {name: dict(_facts_of(model)) for name, model in contract.MODELS.items()}
    names = dict.fromkeys(name for known in facts.values() for name in known)
    rows = [
        (f"`{name}`", *(_sourced(known[name]) if name in known else "" for known in facts.values()))
        for name in names
    ]
    return _table(("fact", *(f"`{name}`" for name in facts)), rows)


def _facts_of(model: contract.Model) -> Iterator[tuple[str, contract.Fact[Any]]]:
    for field in fields(model):
        value = getattr(model, field.name)
        if isinstance(value, contract.Fact):
            yield field.name, value
    for name, scale in model.scales.items():
        yield from ((f"{name}, {word}", getattr(scale, word)) for word in ("low", "high", "default"))


def _sourced(fact: contract.Fact[Any]) -> str:
    value = "unknown" if fact.value is None else _value(fact.value) or "none"
    return f"{value} ({fact.source}{': ' if fact.note else ''}{fact.note})"


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(_value(part) for part in value)
    return f"{value:.4g}" if isinstance(value, float) else f"`{value}`"


def _codes() -> str:
    rows = [
        (
            f"`{code.code}`",
            code.meaning,
            f"`{code.error_class}`",
            "no" if code.is_unbilled else "maybe",
            code.advice,
        )
        for code in contract.ERROR_CODES.values()
    ]
    return _table(("code", "meaning", "`error_class`", "billed?", "advice"), rows)


def _sizes() -> str:
    return ", ".join(f"`{name}` {width}x{height}" for name, (width, height) in contract.SIZES.items())


def _errors() -> str:
    tree = inspect.getdoc(errors) or ""
    return (
        "```text\n" + inspect.cleandoc(tree.split("::", 1)[1].split("Examples", 1)[0]).strip("\n") + "\n```"
    )


def _row_classes() -> str:
    rows = [(f"`{name}`", known.meaning, known.advice) for name, known in summaries.CLASSES.items()]
    return _table(("`error_class`", "meaning", "advice"), rows)


def _rules() -> str:
    found = [
        (f"`{rule.code}`", rule.severity, rule.message, rule.fix, rule.repair)
        for rule in rules.RULES.values()
    ]
    return _table(("code", "severity", "message", "what to do", "repair"), found)


def _options() -> str:
    described = inspect.getdoc(dreamo.run).split("Parameters\n----------\n")[1].split("\n\nReturns")[0]
    rows = []
    defaults = inspect.signature(dreamo.run).parameters
    for entry in re.split(r"\n(?=\S)", described):
        names, meaning = entry.split("\n", 1)
        for name in names.split(" : ")[0].split(", "):
            default = defaults[name].default
            shown = "" if default is inspect.Parameter.empty else f"`{default!r}`"
            rows.append((f"`{name}`", shown, " ".join(meaning.split()).replace("``", "`")))
    return _table(("option", "default", "meaning"), rows)


def verb_options() -> str:
    """Return the stub with a class for the `**options` of each verb, made from the signature of `run`."""
    of_run = inspect.signature(dreamo.run).parameters
    taken: dict[str, list[str]] = {}
    for name in ("plan", "retry", "resume", "start", "search", "probe_seeds"):
        verb = getattr(dreamo, name)
        typed = re.fullmatch(r"Unpack\[(\w+)\]", verb.__annotations__["options"])
        shown = [one for one in inspect.signature(verb).parameters if one not in verb.__annotations__]
        if taken.setdefault(typed[1], shown) != shown:
            raise ValueError(f"{name} takes other options than the verbs that share {typed[1]} with it")
    shared = [one for one in of_run if all(one in shown for shown in taken.values())]
    parts = [VERB_OPTIONS.read_text(encoding="utf-8").partition("\nclass ")[0]]
    for head, names in (("VerbOptions(TypedDict", shared), *taken.items()):
        is_base = names is shared
        lines = [f"class {head if is_base else f'{head}(VerbOptions'}, total=False):\n"]
        for one in names if is_base else [one for one in names if one not in shared]:
            kind = str(of_run[one].annotation).replace("'", '"')
            lines.append(f"    {one}: {kind}\n")
        parts.append("".join(lines) if len(lines) > 1 else lines[0].replace(":", ": ..."))
    return "\n".join(parts)


def _commands() -> str:
    context = click.Context(cli.main, info_name="dreamo-batch")
    texts = []
    for name in cli.main.list_commands(context):
        command = cli.main.get_command(context, name)
        if command.hidden:
            continue
        with click.Context(command, info_name=name, parent=context, terminal_width=100) as inner:
            texts.append(f"## {name}\n\n```text\n{command.get_help(inner)}\n```")
    return "\n\n".join(texts)


def _faults(stage: str) -> str:
    header = ("fault, once", "the row", "possibly billed", "what the toolkit does", "attempts billed", "cost")
    return _table(header, (cells for asked, *cells in fault_table.rendered() if asked == stage))


def _fault_names() -> str:
    rows = [(f"`{fault.name}`", ", ".join(fault.stages), fault.meaning) for fault in faults.FAULTS.values()]
    return _table(("fault", "requests", "what the gateway does"), rows)


def _benchmarks() -> str:
    """Return the figures of the last release, when and where they were measured, and which targets they miss."""
    last = read_history()[-1]
    parts = last["benchmarks"].values()
    figures = [
        Figure(one["name"], one["value"], one["ratio"], one["target"])
        for part in parts
        for one in part["figures"]
    ]
    dates, busy = (sorted({part[name] for part in parts}) for name in ("date", "busy"))
    when = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    load = " to ".join(map(str, dict.fromkeys((busy[0], busy[-1]))))
    where = f"Version {last['version']}, {when}, on {last['machine']}; load average {load}."
    missed = [figure.name for figure in figures if figure.is_met is False]
    said = f"Targets missed: {'; '.join(missed)}." if missed else "All targets are met."
    return "\n".join([where, "", HEAD, *(figure.line for figure in figures), "", said])


PARTS: dict[str, Callable[[], str]] = {
    "benchmarks": _benchmarks,
    "columns-in": lambda: _columns(columns.INPUTS),
    "columns-problems": lambda: _columns(columns.PROBLEMS),
    "columns-out": lambda: _columns(columns.OUTPUTS),
    "columns-plan": lambda: _columns(columns.PLAN),
    "columns-attempts": lambda: _columns(columns.LEDGER),
    "columns-costs": lambda: _columns(columns.COSTS),
    "columns-budget": lambda: _columns(columns.BUDGET),
    "columns-latency": lambda: _columns(columns.LATENCY),
    "columns-throughput": lambda: _columns(columns.THROUGHPUT),
    "columns-failures": lambda: _columns(columns.FAILURES),
    "columns-diversity": lambda: _columns(columns.DIVERSITY),
    "columns-near-duplicates": lambda: _columns(columns.NEAR_DUPLICATES),
    "columns-replicates": lambda: _columns(columns.REPLICATES),
    "columns-ranks": lambda: _columns(columns.RANKS),
    "columns-best-seeds": lambda: _columns(columns.BEST_SEEDS),
    "columns-rated": lambda: _columns(columns.RATED),
    "columns-ratings": lambda: _columns(columns.RATINGS_READ),
    "columns-comparisons": lambda: _columns(columns.COMPARISONS),
    "columns-strengths": lambda: _columns(columns.STRENGTHS),
    "facts": _facts,
    "models": _models,
    "codes": _codes,
    "sizes": _sizes,
    "rules": _rules,
    "errors": _errors,
    "row-classes": _row_classes,
    "options": _options,
    "commands": _commands,
    "faults-create": lambda: _faults("create"),
    "faults-poll": lambda: _faults("poll"),
    "faults-precharge": lambda: _faults("precharge"),
    "faults-download": lambda: _faults("download"),
    "fault-names": _fault_names,
}

if __name__ == "__main__":
    VERB_OPTIONS.write_text(verb_options(), encoding="utf-8")
    for page in pages():
        text = fresh(page.read_text(encoding="utf-8"))
        if "<!-- output -->" in text:
            with tempfile.TemporaryDirectory() as folder:
                text = run_page(text, Path(folder))[0]
        page.write_text(text, encoding="utf-8")
