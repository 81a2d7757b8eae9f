"""Measures this extension beside a stock server, both running at once; only ratios count.

    python -m benchmarks                 all of them
    python -m benchmarks handshake       one of them
    python -m benchmarks --help

`__main__` runs what is in `BENCHMARKS`: functions that are told `pairs.Options` and yield the
`stats.Figure`s of one purpose, from `handshake` (what an upgrade costs), `kernel` (messages of
one client), `tunnel` (the same over tunnels), `crowd` (many clients), `loss` (what is lost, and
clients that do not read) and `notebook` (a page in a browser). `servers` starts the two servers,
`pairs` measures them in turn, `client`, `channels` and `streams` speak to them at little cost,
`emitter` is a kernel that costs little too, `stats` judges, `report` and `plot` write down.

Nothing here belongs to the tests: a timing says something about two servers on one machine in one
run, and nothing about whether the code is right.
"""
