"""What a rule is: code, severity, what was expected, what to do.

Examples
--------
>>> Rule("image-empty", ERROR, "The picture has no bytes.", "Export or download it again.").repair
''
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ERROR: Final = "error"
WARNING: Final = "warning"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: `message` and `fix` may name `{details}` that are filled in for each row.

    `repair` says what a corrected copy of the picture would do about it; empty where none can.

    Examples
    --------
    >>> Rule("image-not-found", ERROR, "There is no file {path}.", "Check the path.").code
    'image-not-found'
    """

    code: str
    severity: str
    message: str
    fix: str
    repair: str = ""
