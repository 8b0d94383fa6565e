"""What the documents say is what the code does."""

from __future__ import annotations

import ast
import inspect
import os
import re
import shlex
import subprocess
import sys
import tomllib
from contextlib import chdir
from pathlib import Path

import pytest
from click.testing import CliRunner

import dreamo_batch as dreamo
from dreamo_batch import cli, errors
from dreamo_batch.gateway import LocalGateway
from tests import reference
from tests.benchmarks.report import Figure

ROOT = Path(__file__).parent.parent

PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *reference.pages())
}


def blocks(text, language):
    """Return the code blocks of a page in one language, in order."""
    return [code for _, tag, code in reference.BLOCK.findall(text) if tag == language]


PYTHON_PAGES = [name for name, text in PAGES.items() if blocks(text, "python")]
# Pages whose commands are run; those of others wait, serve, or need what isn't here.
SHELL_PAGES = [
    f"docs/guide/{name}.md" for name in ("command-line", "first-hour", "looking", "money", "rating")
]
SHELL_BLOCKS = [(name, block) for name, text in PAGES.items() for block in blocks(text, "sh")]


@pytest.mark.parametrize("name", [name for name, text in PAGES.items() if reference.parts(text)])
def test_generated_parts_are_fresh(name):
    """`make docs` writes them."""
    assert reference.fresh(PAGES[name]) == PAGES[name]


def test_every_part_that_can_be_generated_is_in_one_page():
    """No table was left out, and none is there twice."""
    assert sorted(part for text in PAGES.values() for part in reference.parts(text)) == sorted(
        reference.PARTS
    )


def test_code_blocks_name_a_language_that_is_tested():
    """A block that nothing checks is marked as plain text."""
    assert {tag for text in PAGES.values() for _, tag, _ in reference.BLOCK.findall(text)} <= {
        "python",
        "sh",
        "text",
    }


@pytest.mark.no_cover
@pytest.mark.parametrize("name", sorted({*PYTHON_PAGES, *SHELL_PAGES}))
def test_examples_of_a_page_run_and_show_what_it_says(name, tmp_path):
    """Python blocks one after another, on the local gateway, whose output `make docs` writes; then commands."""
    assert reference.run_page(PAGES[name], tmp_path)[0] == PAGES[name]
    if name in SHELL_PAGES:
        _run_commands(name, tmp_path)


def _run_commands(name, folder):
    """Run the commands of a page in the folder that its Python blocks left; each leaves with 0."""
    with chdir(folder), LocalGateway(engine="flat") as gateway:
        at = {"DREAMO_BASE_URL": gateway.base_url, "DREAMO_API_KEY": gateway.api_key}
        commands = (words for block in blocks(PAGES[name], "sh") for words in _commands(block))
        for words in commands:
            if words[0] == "dreamo-batch" and not any(word.startswith("hf:") for word in words):
                done = CliRunner().invoke(cli.main, words[1:], env=at)
                assert (done.exit_code, words) == (0, words), done.stderr


def _calls(code):
    """Return the calls of the package in code that needs what isn't here: a cluster, a GPU, another tool."""
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return []
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [call for call in calls if re.fullmatch(r"dreamo\.\w+", ast.unparse(call.func))]


SKETCHES = [(name, block) for name, text in PAGES.items() for block in blocks(text, "text") if _calls(block)]


@pytest.mark.parametrize(
    ("name", "block"), SKETCHES, ids=[f"{name}-{i}" for i, (name, _) in enumerate(SKETCHES)]
)
def test_python_that_cannot_run_here_calls_what_there_is(name, block):
    """Its functions exist and take its arguments."""
    for call in _calls(block):
        function = getattr(dreamo, ast.unparse(call.func).removeprefix("dreamo."))
        given = {keyword.arg: None for keyword in call.keywords}
        inspect.signature(function).bind(*call.args, **given)


def _commands(block):
    """Return the commands of a shell block as lists of words, without comments and redirections."""
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        for operator in ("&&", "||", ">", "|"):
            words = words[: words.index(operator)] if operator in words else words
        if words:
            yield words


def _check_make(words):
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(words[1:]) <= set(targets[1].split())


def _check_pip(words):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = re.findall(r"\[(.*?)\]", words[-1])
    assert set(extras) <= set(project["optional-dependencies"])


def _check_command_line(words):
    with cli.main.make_context("dreamo-batch", words[1:]) as context:
        name, command, arguments = cli.main.resolve_command(context, context._protected_args + context.args)
        with command.make_context(name, arguments, parent=context):
            pass


_CHECKS = {"make": _check_make, "pip": _check_pip, "dreamo-batch": _check_command_line}
_SHELL_WORDS = {"for", "done", "[", "sleep"}


@pytest.mark.parametrize(
    ("name", "block"), SHELL_BLOCKS, ids=[f"{name}-{i}" for i, (name, _) in enumerate(SHELL_BLOCKS)]
)
def test_commands_of_a_shell_block_are_understood(name, block, tmp_path, monkeypatch):
    """The command line takes each command with its options; `make` and the extras exist."""
    (tmp_path / "data").symlink_to(ROOT / "data")
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    for words in _commands(block):
        if words[0] not in _SHELL_WORDS:
            _CHECKS[words[0]](words)


@pytest.mark.parametrize(
    "name", ["README.md", "CONTRIBUTING.md", *(n for n in PAGES if n.startswith("docs"))]
)
def test_links_and_pictures_exist(name):
    """A relative link leads to a file of the repository, and to a heading of it where it names one."""
    text = PAGES[name]
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", text) + re.findall(r'src="([^"]+)"', text)
    folder = (ROOT / name).parent
    assert [target for target in targets if not (folder / target).exists()] == []


def test_readme_is_short():
    """What is longer belongs into the guide."""
    assert len(PAGES["README.md"].encode()) < 12_000


def test_the_api_reference_has_every_public_name_once():
    """Whoever adds a public name adds it to a page of docs/reference/api."""
    shown = [
        name
        for text in PAGES.values()
        for name in re.findall(r"^::: dreamo_batch\.(\w+)$", text, re.MULTILINE)
    ]
    assert sorted(shown) == sorted(set(dreamo.__all__) - {"__version__"})


@pytest.mark.parametrize("name", sorted(set(dreamo.__all__) - {"__version__"}))
def test_every_public_name_is_documented_with_an_example(name):
    """In NumPy's style; the examples are run as doctests."""
    value = getattr(dreamo, name)
    written = inspect.getdoc(value)
    assert "\nExamples\n--------\n" in written
    if inspect.isfunction(value):
        assert "\nParameters\n----------\n" in written


def test_troubleshooting_has_every_error_class():
    """Under a heading of its own, with what to do."""
    headings = re.findall(r"^### (\w+)$", PAGES["docs/guide/troubleshooting.md"], re.MULTILINE)
    assert headings == [name for name, value in vars(errors).items() if _is_error(value)]


def test_pages_of_the_site_are_all_in_its_menu():
    """A page that the menu lacks is not found."""
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    missing = [name for name in PAGES if name.startswith("docs/") and name.removeprefix("docs/") not in menu]
    assert missing == []


@pytest.mark.parametrize(
    ("value", "ratio", "target", "is_met"),
    [
        ("1.04% answered 429, 96.1% used", 0.961, ">= 0.9, < 1 %", False),
        ("0.41% answered 429, 97.2% used", 0.972, ">= 0.9, < 1 %", True),
        ("0.41% answered 429, 85.0% used", 0.85, ">= 0.9, < 1 %", False),
        ("21.2 s, 1.7 polls a task", 1.01, "<= 1.04, <= 1.6 polls", False),
        ("72 MB", None, "<= 100 MB", True),
        ("0.88 ms", 0.9, "linear: about 1", None),
    ],
)
def test_a_benchmark_meets_every_part_of_its_target(value, ratio, target, is_met):
    assert Figure("figure", value, ratio, target).is_met is is_met


def test_map_of_the_package_has_every_module_and_no_other():
    """CONTRIBUTING names each, with remarks in parentheses."""
    drawn = re.search(r"```text\n(dreamo_batch/.*?)```", PAGES["CONTRIBUTING.md"], re.DOTALL)[1]
    shown = set(re.findall(r"\w+", re.sub(r"\(.*?\)", "", drawn)))
    package = ROOT / "dreamo_batch"
    folders = {path.parent.name for path in package.rglob("__init__.py")}
    assert shown == folders | {path.stem for path in package.rglob("[a-z]*.py")}
    way = re.findall(
        r"\b(?:jobs|engine|service|results)\.\w+", (package / "verbs.py").read_text(encoding="utf-8")[:900]
    )
    assert [name for name in way if not (package / name.replace(".", "/")).with_suffix(".py").exists()] == []


@pytest.mark.slow
def test_site_builds_without_a_warning(tmp_path):
    """Links, anchors, menu and docstrings of the API."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (built.returncode, built.stderr) == (0, "")
    assert 'id="dreamo_batch.run"' in (tmp_path / "reference/api/running.html").read_text(encoding="utf-8")


def test_public_names_are_listed_once():
    """What the stub imports, what it lists and what is loaded agree."""
    stub = ast.parse((ROOT / "dreamo_batch" / "__init__.pyi").read_text(encoding="utf-8"))
    imported = [alias.name for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    (listed,) = [node.value for node in stub.body if isinstance(node, ast.Assign)]
    assert sorted(imported) == sorted(ast.literal_eval(listed)) == sorted(dreamo.__all__)
    for name in dreamo.__all__:
        assert getattr(dreamo, name) is not None


def test_the_package_shows_its_public_names_and_nothing_else():
    """Also after some were used, as completion in a notebook lists them."""
    assert dreamo.run
    assert dir(dreamo) == sorted(dreamo.__all__)
    with pytest.raises(AttributeError, match="module 'dreamo_batch' has no attribute 'runs'") as missing:
        dreamo.runs  # noqa: B018
    assert (missing.value.name, missing.value.obj) == (
        "runs",
        dreamo,
    )  # from which Python takes "did you mean"


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, errors.DreamoError)


def test_every_class_that_a_public_name_speaks_of_can_be_imported():
    """Errors, and what functions and attributes return."""
    ours = {name for name, value in vars(errors).items() if _is_error(value)}
    assert ours <= set(dreamo.__all__)
    assert {"Request", "FaultPlan", "Gallery", "Status", "Plan", "Problems", "Failure"} <= set(dreamo.__all__)


def test_unknown_public_name_is_an_attribute_error():
    """A name the package does not have is refused as everywhere in Python."""
    with pytest.raises(AttributeError, match="nothing_of_the_sort"):
        _ = dreamo.nothing_of_the_sort


def test_changelog_has_the_version():
    """The version of the package has an entry for users."""
    assert f"## [{dreamo.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
