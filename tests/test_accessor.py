"""`jobs.dreamo`: the package's verbs on the table at hand, and nothing else added to pandas."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pandas as pd
import pytest

import dreamo_batch as dreamo
from dreamo_batch import columns
from dreamo_batch.accessor import Dreamo, Verb, register

VERBS = sorted(name for name, verb in vars(Dreamo).items() if isinstance(verb, Verb))
_ACCESSOR = "pd.DataFrame({'n': [1]}).dreamo"
_ADDED = """
import copy
import pandas as pd
before = {(kind, name, id(value)) for kind in (pd.DataFrame, pd.Series, pd.Index) for name, value in vars(kind).items()}
before |= {("pandas", name, id(value)) for name, value in vars(pd).items()}
options = copy.deepcopy(pd._config.config._global_config)
import dreamo_batch
jobs = dreamo_batch.sweep(image="https://example.com/cat.png", prompt="a cat", seed=range(2))
repr(jobs.dreamo.plan()), jobs.dreamo.plan()._repr_html_(), jobs.dreamo.validate()._repr_html_()
after = {(kind, name, id(value)) for kind in (pd.DataFrame, pd.Series, pd.Index) for name, value in vars(kind).items()}
after |= {("pandas", name, id(value)) for name, value in vars(pd).items()}
added = {(getattr(kind, "__name__", kind), name) for kind, name, _ in after - before}
assert added == {("DataFrame", "dreamo")}, added
assert not before - after, before - after
assert options == pd._config.config._global_config
"""


def _run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def jobs(tmp_path) -> pd.DataFrame:
    return dreamo.sweep(
        image="data/mascot.png", prompt=str(tmp_path), seed=range(1, 4), size="512x512", use_rephraser=False
    )


@pytest.mark.parametrize("name", VERBS)
def test_verb_is_the_public_function_on_the_table(name):
    """Signature and docstring are the function's own, less the table, which is the first argument of each."""
    function, bound = getattr(dreamo, name), getattr(pd.DataFrame().dreamo, name)
    table, *others = inspect.signature(function).parameters.values()
    assert table.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert list(inspect.signature(bound).parameters.values()) == others
    assert inspect.getdoc(bound) == inspect.getdoc(function)
    assert getattr(Dreamo, name) is function


def test_every_verb_takes_a_table_first():
    """No verb stands on DataFrames whose function wants something else in the first place."""
    first = {next(iter(inspect.signature(getattr(dreamo, name)).parameters)) for name in VERBS}
    assert first <= {"table", "results", "source"}


@pytest.mark.parametrize(
    "code",
    [
        f"import pandas as pd, dreamo_batch; print({_ACCESSOR})",
        f"import dreamo_batch, pandas as pd; print({_ACCESSOR})",
        "import dreamo_batch as d; print(d.sweep(image='x', prompt='a').dreamo)",
        f"import dreamo_batch, importlib; importlib.reload(dreamo_batch); import pandas as pd; print({_ACCESSOR})",
        f"import dreamo_batch, importlib.util as u; u.find_spec('pandas'); import pandas as pd; print({_ACCESSOR})",
        f"import dreamo_batch, importlib; import pandas as pd; importlib.reload(dreamo_batch); print({_ACCESSOR})",
    ],
    ids=[
        "pandas first",
        "package first",
        "no pandas",
        "reloaded before",
        "pandas looked for",
        "reloaded after",
    ],
)
def test_accessor_is_there_in_whatever_order_things_are_imported(code):
    """DataFrames have it once both are imported."""
    assert _run(code).startswith("<dreamo: validate, plan, run, start, ")


def test_import_hook_takes_itself_away():
    """Once pandas is loaded, nothing of the hook is left, on the import path or on the loader."""
    _run(
        "import sys; before = list(sys.meta_path); import dreamo_batch\n"
        "assert len(sys.meta_path) == len(before) + 1\n"
        "import json, pandas\n"
        "names = {type(finder).__module__ for finder in sys.meta_path}\n"
        "assert not any(name.startswith('dreamo_batch') for name in names), names\n"
        "assert 'exec_module' not in vars(pandas.__spec__.loader)\n"
    )


def test_import_that_fails_is_tried_again():
    """A pandas that could not be imported at first gets its accessor when it can."""
    _run(
        "import sys, dreamo_batch\n"
        "sys.modules['numpy'] = None\n"
        "try:\n    import pandas\nexcept ImportError:\n    pass\nelse:\n    raise SystemExit(1)\n"
        "del sys.modules['numpy']\n"
        "for name in [name for name in sys.modules if name.startswith('pandas')]:\n    del sys.modules[name]\n"
        f"import pandas as pd; {_ACCESSOR}\n"
    )


def test_nothing_else_of_pandas_is_changed():
    """DataFrames gain one attribute; classes, functions and options of pandas are as before."""
    _run(_ADDED)


def test_name_that_is_taken_is_left_alone(monkeypatch):
    """Somebody else's `dreamo` on DataFrames stays theirs."""
    monkeypatch.setattr(pd.DataFrame, "dreamo", "theirs")
    register()
    assert pd.DataFrame.dreamo == "theirs"


def test_accessor_does_what_the_functions_do(jobs, tmp_path):
    """A table is checked, planned, bought and looked at through its accessor."""
    assert jobs.dreamo.validate().empty
    assert (jobs.dreamo.plan(tmp_path)[columns.ACTION] == "new").all()
    with dreamo.LocalGateway(engine="flat") as gateway:
        done = jobs.dreamo.run(tmp_path, gateway=gateway, progress=False)
        again = jobs.dreamo.start(tmp_path, gateway=gateway).wait(progress=False)
        assert len(gateway.invoice()) == len(jobs)
    pd.testing.assert_frame_equal(again, dreamo.load(tmp_path))
    pd.testing.assert_frame_equal(done.dreamo.costs(by="seed"), dreamo.costs(done, by="seed"))
    assert done.dreamo.failures().empty


def test_accessor_is_of_its_own_table(jobs):
    """A part of a table is planned as that part."""
    assert len(jobs.head(2).dreamo.plan()) == 2
    assert len(jobs.dreamo.plan()) == 3
