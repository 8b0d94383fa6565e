"""Install the wheel as users do: without extras, with the oldest dependencies it allows, on every Python.

``python -m tests.release_check [bare] [oldest] [pythons]``; all three by default. Prints a line for each; exits with
1 at the first that fails.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import dreamo_batch as dreamo

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).parent.parent
UV = Path(sys.executable).with_name("uv")
PYTHONS = ("3.11", "3.12", "3.13")
TESTS = ("tests/test_flow_run.py", "tests/test_flow_budget.py", "tests/test_jobs_tables.py")
# With the oldest dependencies, these packages' own tests, too, but not in continuous integration, which is to be quick,
# and not what looks at warnings of other packages, or at what only newer versions of pandas keep beside a table.
OF_PACKAGES = ("tests/test_engine_*.py", "tests/test_jobs_*.py", "tests/test_results_*.py")
NOT_OLDEST = ("test_results_comparison.py", "test_results_export.py", "test_results_measure.py")
# What these tests need beside the package itself.
TOOLS = ("pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "nbformat", "onnx")


def main(wanted: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="dreamo-release-") as name:
        folder = Path(name)
        run(UV, "build", "--wheel", "--quiet", "--out-dir", folder, ROOT)
        (wheel,) = folder.glob("*.whl")
        for check in (bare, oldest, pythons):
            if not wanted or check.__name__ in wanted:
                check(folder, wheel)


def bare(folder: Path, wheel: Path) -> None:
    """The wheel alone."""
    python = environment(folder / "bare", sys.executable)
    run(UV, "pip", "install", "--quiet", "--python", python, "-c", ROOT / "constraints.txt", wheel)
    with dreamo.LocalGateway(engine="flat", api_key="bare-install") as gateway:
        script, image = ROOT / "tests" / "bare_install.py", ROOT / "data" / "mascot.png"
        run(python, script, gateway.base_url, image, cwd=folder)


def oldest(folder: Path, wheel: Path) -> None:
    """Tests with the lowest version of each dependency that pyproject.toml allows."""
    python = environment(folder / "oldest", sys.executable)
    lowest = folder / "lowest.txt"
    compiled = (UV, "pip", "compile", "--quiet", "--resolution", "lowest-direct", "--python", python)
    run(*compiled, "--extra", "all", ROOT / "pyproject.toml", "-o", lowest)
    patterns = () if os.environ.get("CI") else OF_PACKAGES
    paths = {path for pattern in patterns for path in ROOT.glob(pattern) if path.name not in NOT_OLDEST}
    tests = sorted({*TESTS, *(path.relative_to(ROOT).as_posix() for path in paths)})
    tested(python, folder / "checkout-oldest", lowest, wheel, tests)
    print("The tests pass with the oldest dependencies that are allowed.")


def pythons(folder: Path, wheel: Path) -> None:
    """Tests on every Python that is named in pyproject.toml and found on this machine."""
    for version in PYTHONS:
        found = interpreter(version)
        if found is None:
            print(f"Python {version} is not on this machine; not checked.")
            continue
        python = environment(folder / version, found)
        tested(python, folder / f"checkout-{version}", ROOT / "constraints.txt", wheel, TESTS)
        print(f"The tests pass on Python {version}.")


def interpreter(version: str) -> str | None:
    """Find a Python on the path, or among those of pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    kept = sorted(pyenv.glob(f"versions/{version}.*/bin/python"))
    return str(kept[-1]) if kept else shutil.which(f"python{version}")


def environment(folder: Path, python: str) -> Path:
    run(UV, "venv", "--quiet", "--python", python, folder)
    return folder / "bin" / "python"


def tested(python: Path, checkout: Path, constraints: Path, wheel: Path, tests: Iterable[str]) -> None:
    """Install the wheel with all extras, and test what is installed, not the sources beside the tests."""
    run(UV, "pip", "install", "--quiet", "--python", python, "-c", constraints, f"{wheel}[all]", *TOOLS)
    checkout.mkdir()
    for name in ("tests", "data"):
        shutil.copytree(ROOT / name, checkout / name)
    shutil.copy(ROOT / "pyproject.toml", checkout)
    # Old packages warn of what the newest of others will drop; that is between them.
    options = ("-q", "-x", "-n", "auto", "-W", "default::DeprecationWarning")
    run(python, "-m", "pytest", *options, *tests, cwd=checkout)


def run(*command: object, cwd: Path = ROOT) -> None:
    words = [str(word) for word in command]
    environ = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    if subprocess.run(words, cwd=cwd, env=environ, check=False).returncode:
        raise SystemExit(f"failed: {' '.join(words)}")


if __name__ == "__main__":
    main(sys.argv[1:])
