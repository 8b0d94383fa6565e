"""The service: the only place that knows the wire.

From the outside in: `client` is what the rest of the package calls; `api` sends with the key and raises without it;
`download` fetches pictures without it; `transport` carries one request at a time over `connections`, and `answer` is
what comes back. Pure: `wire` and `task` read and write payloads, `payload` the values in them; `failures` says what a
`failure` means, from an answer, from an exception (`causes`), and after how long to ask again (`retry_after`).
`settings` says where the service is and with which key, `parameters` what is known of it.
"""
