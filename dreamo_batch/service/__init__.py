"""The service: the only place that knows the wire.

`parameters` holds the facts, `settings` where and with which key, `wire` reads and writes payloads (`payload`
the values in them), `failures` says what a failure means (`causes` reads exceptions, `retry_after` the waiting
time), `connections` and `transport` carry one request, `client` is what the rest of the package calls.
"""
