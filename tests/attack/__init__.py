"""Attacks: what strangers, accidents and impatience do to graphir, done on purpose and counted.

    python -m tests.attack --minutes 10
    python -m tests.attack --rounds files=20000,kills=200 --markdown benchmarks/results/attack.md

    outcome     what must not happen: a raw error, a loss, a hang
    attacks     which attacks there are; each is a module with a generator of its name
    run         attacks for so many trials, or for so long
    report      what was counted, as a table on the terminal and as a page

An attack is a function `name(seed)` in the module `tests.attack.name`. It yields, for each trial, what was attacked and
what came of it, both in a few words of which there are few: they are counted. Where something happens that must not, it
raises an `AttackError`, and is begun again with another seed. Everything follows from the seed, but for the moments at
which processes are killed.
"""
