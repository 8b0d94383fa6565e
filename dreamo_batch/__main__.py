"""`python -m dreamo_batch`: the same as the command `dreamo-batch`."""

from __future__ import annotations

from dreamo_batch.cli import main

if __name__ == "__main__":
    main()
