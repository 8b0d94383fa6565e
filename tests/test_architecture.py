"""The shape of the package: one concept, one home, one name."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(__file__).parent.parent / "dreamo_batch"
MODULES = sorted(PACKAGE.rglob("*.py"))
N_MODULES = 90
N_CODE_LINES = 25_542
N_LINES = 37_561
# What users read about: what the reference documents, the methods of a table, and what an engine of their own has.
REFERENCE = "".join(
    page.read_text("utf-8") for page in (PACKAGE.parent / "docs" / "reference" / "api").glob("*.md")
)
SHOWN = {"Dreamo", "Engine", *re.findall(r"^::: [\w.]*\.(\w+)", REFERENCE, re.MULTILINE)}
# Tests of no single module: the command line, whole runs, state machines, and what stands around the package.
OVER_MODULES = {
    "cli",
    "flow",
    "machine",
    "architecture",
    "conformance",
    "data",
    "docs",
    "notebooks",
    "packaging",
}

pytestmark = pytest.mark.no_cover  # nothing of the package is run


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def code_lines(path: Path) -> int:
    """Count the lines that hold code: no blank, comment or docstring line."""
    lines: set[int] = set()
    silent = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type not in silent:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            ast.get_docstring(node) is not None
        ):
            docstring = node.body[0]
            lines -= set(range(docstring.lineno, docstring.end_lineno + 1))
    return len(lines)


def imports(path: Path) -> set[str]:
    """Name the modules of the package that a module imports when it is loaded."""
    found = set()
    for node in parsed(path).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dreamo_batch"):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if _path(name) is not None else str(node.module))
    return found - {name_of(path)}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def _path(name: str) -> Path | None:
    base = PACKAGE.parent / name.replace(".", "/")
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.exists()), None)


def test_the_package_stays_small(capsys):
    """Its size is printed; growing past these numbers is a decision to be made here."""
    n_code = sum(code_lines(path) for path in MODULES)
    n_lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES)
    with capsys.disabled():
        print(f"\n{len(MODULES)} modules, {n_code:,} code lines, {n_lines:,} lines in all")
    assert len(MODULES) <= N_MODULES
    assert n_code <= N_CODE_LINES
    assert n_lines <= N_LINES


def test_file_names_are_unique():
    """Somebody who looks for a file finds one."""
    counts = Counter(path.name for path in MODULES if path.name != "__init__.py")
    assert [name for name, n in counts.items() if n > 1] == []


def test_test_files_are_named_after_the_module_they_test():
    """`test_engine_plan_options.py` tests options in `engine/plan.py`; the rest of the name may say which part."""
    modules = (name_of(path) for path in MODULES if path.name != "__init__.py")
    homes = {name.removeprefix(f"{PACKAGE.name}.").replace(".", "_") for name in modules} | OVER_MODULES
    tests = [path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")]
    assert [name for name in tests if not any(f"{name}_".startswith(f"{home}_") for home in homes)] == []


def definitions(
    node: ast.AST, *, is_shown: bool
) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Find the functions and classes that only their own developers read about."""
    for child in ast.iter_child_nodes(node):
        is_inner = is_shown
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            decorators = map(ast.unparse, child.decorator_list)
            is_command = any(re.match(r"command\(|click\.group\(", decorator) for decorator in decorators)
            is_inner = is_command or child.name in SHOWN or (is_shown and not child.name.startswith("_"))
            if not is_inner:
                yield child
        yield from definitions(child, is_shown=is_inner)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_internal_docstrings_have_one_sentence(path):
    """Users read the public ones, which are complete; for a developer, more than a sentence belongs in the code."""
    is_shown = f"::: {name_of(path)}\n" in REFERENCE
    ends = re.compile(r"[.!?](?:\s|$)")
    internal = definitions(parsed(path), is_shown=is_shown)
    assert [one.name for one in internal if len(ends.findall(ast.get_docstring(one) or "")) > 1] == []


def test_class_names_are_unique():
    """One name, one concept."""
    counts = Counter(
        node.name for path in MODULES for node in parsed(path).body if isinstance(node, ast.ClassDef)
    )
    assert sorted(name for name, n in counts.items() if n > 1) == []


def test_no_import_goes_in_a_circle():
    """Every module can be understood, and loaded, after those it imports."""
    needs = {name_of(path): imports(path) for path in MODULES}
    while free := {name for name, needed in needs.items() if not needed & needs.keys()}:
        needs = {name: needed for name, needed in needs.items() if name not in free}
    assert sorted(needs) == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_module_of_the_package_is_imported_by_its_name_as_text(path):
    """The checks of layers and circles would not see it."""
    calls = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.Call) and node.args]
    loads = {"import_module", "load_module", "load_extra", "__import__"}
    loaded = [call.args[0] for call in calls if ast.unparse(call.func).rpartition(".")[2] in loads]
    assert [ast.unparse(name) for name in loaded if PACKAGE.name in ast.unparse(name)] == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_says_in_a_sentence_what_lives_there(path):
    """It begins with a docstring of one line."""
    docstring = ast.get_docstring(parsed(path))
    assert docstring or not path.read_text(encoding="utf-8").strip()
    if docstring:
        assert docstring.splitlines()[0].endswith((".", ":"))


def test_every_logger_is_one_that_never_ends_a_run():
    """Somebody's handler may raise, in any module."""
    assert [path.name for path in MODULES if "getLogger(__name__)" in path.read_text("utf-8")] == []
