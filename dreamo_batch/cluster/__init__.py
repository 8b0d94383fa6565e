"""One run, or one cap, over many ledgers, processes and machines."""
