"""What is installed, and what importing it does and does not do."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

import dreamo_batch
from dreamo_batch.importing import load_module as load
from tests import reference

ROOT = Path(__file__).parent.parent
_QUIET_IMPORT = """
import sys, threading
import dreamo_batch
assert threading.active_count() == 1, threading.enumerate()
heavy = {"fastapi", "uvicorn", "ipywidgets", "jinja2", "matplotlib", "dask", "pandas", "pyarrow", "requests"}
loaded = heavy & set(sys.modules)
assert not loaded, loaded
dreamo_batch.run, dreamo_batch.sweep, dreamo_batch.load, dreamo_batch.validate, dreamo_batch.plan
assert threading.active_count() == 1, threading.enumerate()
loaded = {"fastapi", "uvicorn", "ipywidgets", "matplotlib", "dask"} & set(sys.modules)
assert not loaded, loaded
"""


def test_version_is_the_same_everywhere():
    """Package, metadata and pyproject agree."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert dreamo_batch.__version__ == project["version"] == version("dreamo-batch")


def test_import_is_light_and_starts_nothing():
    """Importing loads nothing heavy, and using the main functions' names starts no thread and no web framework."""
    done = subprocess.run([sys.executable, "-c", _QUIET_IMPORT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_wheel_holds_the_package_its_types_and_the_demo(tmp_path):
    """A built wheel has every module, the marker of its types, and what the demo and the report need."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--quiet",
        "--wheel-dir",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        names = set(content.namelist())
    display = ROOT / "dreamo_batch" / "display"
    files = [*(ROOT / "dreamo_batch").rglob("*.py"), *display.glob("assets/*"), *display.glob("templates/*")]
    assert {path.relative_to(ROOT).as_posix() for path in files} <= names
    assert {"dreamo_batch/py.typed", "dreamo_batch/demo_data/jobs_small.csv"} <= names
    assert {
        "dreamo_batch/display/assets/gallery.js",
        "dreamo_batch/display/templates/gallery.html.j2",
    } <= names
    assert not any(name.startswith(("tests/", "notebooks/")) for name in names)


def test_no_file_names_a_registry_or_a_machine():
    """Nothing committed tells where packages were fetched from, and no lock file is kept."""
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {Path(name).name for name in files} & {"uv.lock", "pylock.toml"}
    hosts = ("python" + "hosted", "pypi" + ".org", "registry.npm" + "js")
    texts = [
        (ROOT / name) for name in files if Path(name).suffix in {".py", ".txt", ".toml", ".md", ".yaml", ""}
    ]
    guilty = [
        str(path)
        for path in texts
        if path.exists() and any(h in path.read_text(errors="ignore") for h in hosts)
    ]
    assert guilty == []


INTERRUPTED = """
import os, signal, sys
import pandas as pd  # as a notebook has already
import dreamo_batch as dreamo

class Interrupts:
    def find_spec(self, name, path, target=None):
        if name == sys.argv[1]:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):  # an interrupt comes between two instructions of the main thread
                pass

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupts())
for call in range(2):
    try:
        print(len(dreamo.plan(pd.DataFrame({"image": [], "prompt": []}))))
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.mark.parametrize("module", ["requests.models", "dreamo_batch.engine.plan", "pyarrow.dataset"])
def test_a_first_call_that_is_interrupted_leaves_nothing_half_loaded(module):
    """Ctrl-C in the first second, while modules are loaded, ends that call; the same call again works."""
    command = [sys.executable, "-c", INTERRUPTED, module]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["interrupted", "0"], done.stderr


def test_a_module_that_can_not_be_loaded_says_why():
    """The error is raised where it was asked for."""
    with pytest.raises(ModuleNotFoundError, match=r"dreamo_batch\.nothing"):
        load("dreamo_batch.nothing")


_USER_CODE = """
from decimal import Decimal
from pathlib import Path

import pandas as pd

import dreamo_batch as dreamo

jobs: pd.DataFrame = dreamo.sweep(image=["a.png"], prompt="a fox", seed=range(1, 3), size=["1:1", "16:9"])
done: pd.DataFrame = dreamo.run(jobs, "runs/first", gateway=dreamo.LocalGateway(engine="flat"), max_cost="5")
dreamo.run(jobs, Path("runs/first"), gateway="local", max_cost=5, unit_cost=Decimal("0.03"), progress=False)
with dreamo.LocalGateway(latency="fixed:3") as gateway:
    live: dreamo.Batch = dreamo.start(jobs, "runs/second", gateway=gateway)
    table: pd.DataFrame = live.wait(timeout_s=3)
client = dreamo.Client(api_key="sk-example-key", base_url="http://127.0.0.1:9")
try:
    dreamo.run(jobs, "runs/third", client=client, on_invalid="skip")
except dreamo.BudgetReached as stopped:
    left: pd.DataFrame = stopped.results
except dreamo.RunStopped as stopped:
    table_or_none: pd.DataFrame | None = stopped.results
dreamo.retry("runs/first", rows=[1, 2], classes="moderation", max_attempts=2)
dreamo.resume(run_dir="runs/first", max_cost="6", progress=False)
dreamo.plan(jobs, max_cost=5, unit_cost="0.03", base_dir=Path("pictures"))
dreamo.search(jobs, "runs/s", accept="appearance >= 0.8", max_cost=1, gateway="local", max_in_flight=4)
dreamo.probe_seeds(jobs, "runs/p", max_cost="1", on_ambiguous="hold")

class TableOfAnotherLibrary:
    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return jobs.__arrow_c_stream__(requested_schema)

other = TableOfAnotherLibrary()
dreamo.validate(other)
dreamo.plan(other, "runs/first")
done = dreamo.run(other, "runs/first", gateway="local")
live = dreamo.start(other, "runs/first", gateway="local")
dreamo.write_table(other, "jobs.csv")
dreamo.costs(other, by="prompt")
dreamo.gallery(other, rows="prompt")
dreamo.export(other, "all.parquet")
"""

_WRONG_CODE = """
import dreamo_batch as dreamo

jobs = dreamo.sweep(image="a.png", prompt="a fox")
dreamo.plan(jobs, max_costs=5)
dreamo.plan(jobs, max_in_flight="8")
dreamo.start(jobs, "runs/a", progress=True)
dreamo.retry("runs/a", base_dir="pictures")
dreamo.retry("runs/a", max_attempt=2)
dreamo.resume("runs/a", on_ambiguous="drop")
dreamo.search(jobs, "runs/s", accept="appearance >= 0.8", max_cost=1, keeps=4)
dreamo.probe_seeds(jobs, "runs/p", max_cost="1", download="no")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "checker",
    [
        ["mypy", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")],
        ["basedpyright", "--level", "error", "--pythonpath", sys.executable],
    ],
    ids=["mypy", "pyright"],
)
def test_types_accept_a_users_code_and_refuse_options_that_do_not_exist(tmp_path, checker):
    """What README shows passes both type checkers; each call with a wrong option is named."""
    tool = Path(sys.executable).parent / checker[0]
    (tmp_path / "users.py").write_text(_USER_CODE, encoding="utf-8")
    (tmp_path / "wrong.py").write_text(_WRONG_CODE, encoding="utf-8")
    command = [tool, *checker[1:], "users.py", "wrong.py"]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    errors = re.findall(r"(\w+)\.py:(\d+):.* error", told)
    (n_in_all,) = re.findall(r"(\d+) errors?\b", told)  # also those that name no line
    assert int(n_in_all) == len(errors), told
    assert sorted(set(errors)) == sorted(("wrong", str(line)) for line in range(5, 13)), told


def test_what_type_checkers_know_of_the_verbs_options_is_what_they_take():
    """The stub is what `make docs` writes: names and types are those of `run`."""
    assert reference.VERB_OPTIONS.read_text(encoding="utf-8") == reference.verb_options()


@pytest.mark.parametrize(
    "lines",
    [
        "dreamo.LocalGateway",
        "dreamo.run(dreamo.sweep(image=sys.argv[1], prompt='x'), sys.argv[2], gateway='local')",
    ],
)
def test_a_base_install_names_the_extra_of_the_local_gateway(tmp_path, lines):
    """Without FastAPI, as after `pip install dreamo-batch`."""
    script = f"import sys; sys.modules['fastapi'] = None\nimport dreamo_batch as dreamo\n{lines}"
    command = [sys.executable, "-c", script, ROOT / "data" / "mascot.png", tmp_path / "run"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert "pip install 'dreamo-batch[local]'" in told.stderr.splitlines()[-1]


def test_a_lock_that_an_interrupted_import_left_is_released():
    """Python never does: imports in another thread would wait for it, and each call for that thread."""
    left = "import _imp, dreamo_batch; _imp.acquire_lock(); _imp.acquire_lock(); print(dreamo_batch.run.__name__)"
    command = [sys.executable, "-c", left]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "run\n"
