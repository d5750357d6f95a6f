"""A campaign: small random graphs, one after the other, each run in every way there is, and all ways compared.

    python -m tests.campaign --minutes 60 --out found

    writer      a graph in the making: shapes, sizes, and which values there are to choose from
    moves       what a graph is made of, one move after the other
    sums        sums, counts, lookups and losses among them
    views       reshapes by position
    own         operators that are not the dictionary's, with kernels of somebody's own or drawn
    attention   attention, written in the ways that people write it
    draw        from a seed to a case: a graph, sizes, and what is made of it (gradients, updates, a plan)
    case        a case, its arrays, its text
    ways        a way to run a case: executor, threads, tiling, passes left out
    apart       ranks side by side, each an executable of its own, in threads of one process
    trial       one case run in one way, held to the reference interpreter
    shrink      from a case that departs to the smallest that does
    run         a campaign from seed to seed
    report      what was counted, as a table
    mutations   one small change of a module, by its syntax tree
    mutants     modules changed so, and whether the campaign finds it
    reached     which branches of the compiled executor the graphs reach, and why they reach no others

Everything follows from a seed: the same seed draws the same graph, and runs it in the same ways.
"""
