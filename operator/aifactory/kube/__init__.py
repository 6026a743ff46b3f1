"""Talking to an API server: client, informers, stores, work queue, leader election, Events. Knows no kind of ours.

From the wire up: `resources` and `objects` say what there is, `errors` what can go wrong, `api` which verbs exist,
`client` speaks them over one HTTP session that `auth` opens. `informer` keeps a `store` true, `queue` says which object
is to be looked at next, `lease` who may write, `events` tells people. Time comes from a `clock` that is handed in and
from the event loop, so that a simulator can replace both.
"""
