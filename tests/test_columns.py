"""The columns of every table: names in the module, the rest in the file beside it."""

from __future__ import annotations

import pandas as pd

from dreamo_batch import columns

PUBLIC = {name: value for name, value in vars(columns).items() if name.isupper() and name[0] != "_"}
TABLES = [value for value in PUBLIC.values() if isinstance(value, dict)]


def test_every_column_of_the_file_has_a_constant():
    """So that a slip in either is found."""
    constants = {word for word in PUBLIC.values() if isinstance(word, str)}
    constants |= {*columns.IMAGE_NUMBERED}
    assert {name for table in TABLES for name in table} <= constants


def test_every_table_of_the_file_is_known_and_can_be_made():
    """Dtypes are those of pandas, and meanings are sentences."""
    assert len(TABLES) == len(columns._TABLES)
    for table in TABLES:
        assert len(pd.DataFrame(columns=list(table)).astype(columns.dtypes(table)).columns) == len(table)
        assert all(column.meaning.endswith(".") for column in table.values())
