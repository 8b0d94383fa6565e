"""The table: a DataFrame becomes jobs.

`sweep` makes a table and `tables` reads one. `prepare` checks every row: its reference pictures (`references`) and its
other columns (`fields`, on top of `cells`). What is wrong becomes a finding of one of the `rules`. Each valid row gets
its job: an identity and a seed.
"""
