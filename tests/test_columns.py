"""The columns of every table: names in the module, the rest in the file beside it."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from dreamo_batch import columns

PUBLIC = {name: value for name, value in vars(columns).items() if name.isupper() and name[0] != "_"}
TABLES = [value for value in PUBLIC.values() if isinstance(value, dict)]


def test_every_constant_that_is_used_is_known():
    """A slip in one is found, which no type checker sees in names that are made from a file."""
    used = {}
    for path in Path(columns.__file__).parent.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        alias = "names" if "import columns as names" in text else "columns"
        used |= dict.fromkeys(re.findall(rf"(?<![.\w]){alias}\.([A-Z][A-Z0-9_]+)\b", text), path.name)
    assert len(used) > 200
    assert {name: place for name, place in used.items() if name not in PUBLIC} == {}


def test_every_table_of_the_file_is_known_and_can_be_made():
    """Dtypes are those of pandas, and meanings are sentences."""
    assert len(TABLES) == len(columns._TABLES)
    for table in TABLES:
        assert len(pd.DataFrame(columns=list(table)).astype(columns.dtypes(table)).columns) == len(table)
        assert all(column.meaning.endswith(".") for column in table.values())
