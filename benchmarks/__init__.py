"""Measures this extension beside a stock server, both running at once; only ratios count.

    python -m benchmarks                 all of them
    python -m benchmarks handshake       one of them
    python -m benchmarks --help

`__main__` runs the modules listed in `BENCHMARKS` and reports. Each module has one function,
`measure(options)`, which yields a `stats.Comparison` for every figure. `servers` starts the two
servers, `client` speaks to them at little cost, `stats` judges, `report` prints.

Nothing here belongs to the tests: a timing says something about two servers on one machine in one
run, and nothing about whether the code is right.
"""
