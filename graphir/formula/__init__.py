"""What an operator computes, as a formula traced from its kernel.

    terms       numbers over named indices
    shapes      axes as factors
    places      integers that follow from where a block lies
    kinds       what NumPy's promotion of dtypes makes of them
    opaque      what symbols do not answer
    arithmetic  Python's operators
    traced      the arrays that a kernel is handed to be traced
    module      the array module that goes with them
    reads       what a kernel reads beside its arguments
    trace       from an operator to its formula; sees: from what it declares of its operands to which scores count
    evaluate    a formula's numbers, by any array module
    flops       how many operations a node has, by its declaration or by its formula
    spelled     formulas as text to be read

A kernel is the specification, and it is the only one: it is called once, on arrays that record what is done to them,
with symbols for lengths and places (`trace.formula_of`). What comes back is a term for each result: sums, maxima and
elementwise operations over the factors of the operator's signature, with no shape and no order of axes. So an operator
of one's own is fused like those of the dictionary, and nobody has to say twice what it computes.

Backends make of it what they are good at: expressions over one row for fused kernels (`graphir.backends.rows`), or
NumPy's calls (`graphir.backends.numpy`). Where a machine has something better than the formula, a rule of the
operator's own overrides it (`graphir.backends.compiled.emission`).

A kernel that asks how large a length or an element is, of what type its operands are, writes into an array, reads what
may change unnoticed, or uses what symbols do not have, has none (`trace.NoFormula`, with the reason and the line). It
is called as it was written, which `executable.report()` tells. A global that it reads is part of what a formula is
remembered by: what is compiled after it has changed has the new number, and an executable keeps the one that it was
compiled with.

Random kernels, drawn by `tests/formula/test_random_kernels.py`, are computed by their formulas as by themselves.
"""
