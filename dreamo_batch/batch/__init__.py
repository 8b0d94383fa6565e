"""Joins the stages: what a user calls, and nothing that they don't.

One row's way: the user's row -> `table.validation` -> `table.jobs` -> `run.plan` -> `run.schedule` says create
-> `run.budget` reserves -> `run.journal` "about to" (fsync) -> `service.client.create` -> `run.journal` task id
(fsync) -> `run.schedule` says poll -> `service.client.fetch` -> `run.journal` outcome -> `run.archive` saves the
picture -> `run.state` folds -> `checkpoint.parquet` -> `results.frame`. No arrow points back; a resume enters at
the fold.
"""
