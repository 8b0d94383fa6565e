"""Tables made from the ledger: the results, and what they cost, how long they took, what failed and how they compare."""
