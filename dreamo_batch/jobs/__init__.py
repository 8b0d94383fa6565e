"""The table: a DataFrame becomes jobs.

`sweep` makes a table and `tables` reads one. `validate` reads every row: its reference pictures (`sources`,
`references`) and its other columns (`fields`, on top of `cells`). What is wrong becomes a finding of one of the
`rules`. `prepare` gives each valid row its job: an `identity` and a seed.
"""
