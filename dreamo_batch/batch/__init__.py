"""Joins the stages: what a user calls, and nothing that they don't.

One row's way::

    the user's row -> table.validation -> table.jobs -> execution.plan
    -> execution.schedule says create -> execution.budget reserves
    -> execution.journal "about to" (fsync) -> service.client.create
    -> execution.journal task id (fsync) -> execution.schedule says poll, when due
    -> service.client.fetch -> execution.journal outcome
    -> execution.archive saves the picture -> execution.state folds
    -> checkpoint.parquet -> results.frame

No arrow points back; a resume enters at the fold.
"""
