"""What the documents say is what the code does."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

import dreamo_batch as dreamo
from dreamo_batch import errors

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
import readme  # noqa: E402 - it stands beside this file, which is no package

TEXT = readme.README.read_text(encoding="utf-8")


def test_readme_tables_are_those_of_the_code():
    """Every generated section is fresh; `make docs` writes them."""
    assert readme.fresh(TEXT) == TEXT


def test_readme_has_every_generated_section():
    """No table that can be generated was left out."""
    assert readme.sections(TEXT) == set(readme.SECTIONS)


def test_readme_links_and_pictures_exist():
    """A relative link in the README leads to a file of the repository."""
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", TEXT) + re.findall(r'src="([^"]+)"', TEXT)
    assert [target for target in targets if not (ROOT / target).exists()] == []


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL))
def test_readme_examples_run(block, tmp_path, monkeypatch):
    """Every Python example of the README runs from the repository's root, against the local gateway."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    code = block.replace('"runs/', f'"{tmp_path}/runs/')
    exec(compile(code, "README.md", "exec"), {"__name__": "readme_example"})  # noqa: S102 - our own README


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
