"""The engine: decides what is sent next, records it before it is sent, and folds what came back into the ledger."""
