"""The table: a DataFrame becomes jobs.

`sweep` makes a table from axes and `files` reads one; `schema` looks at its columns. `reading` reads every row:
pictures (`references`, each distinct one checked once by `images`), prompts, seeds and switches (`fields`),
sizes (`sizes`), on top of `distinct`, `cells` and `integers`. What is wrong becomes a finding (`findings`) of one
of the `rules`, and all of them together are what `validation` returns. `jobs` gives each row that is left its
identity and its seed.
"""
