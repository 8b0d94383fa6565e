"""The engine: decides what to send next, records it before it is sent, and records what came back."""
