"""Tables made from the ledger: the results, what they cost, how long they took, what failed and how they compare."""
