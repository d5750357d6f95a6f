"""What a fused kernel computes between products, whatever machine it is for: rows, and expressions over one of them.

    runs          which consecutive nodes of a task one kernel computes: those whose formulas go together row by row
    lower         from a formula to expressions over one row: its factors as columns, rows and numbers
    idioms        what is put otherwise before, as kernels have functions for it: σ and Φ, powers, products of numbers
    draws         dropout's masks: a draw for each element, by its number in the whole tensor
    scalars       numbers that are known at run time only and are the same for all rows, such as a learning rate's
    expressions   what is computed of a row: operations on its elements, and on numbers of the row as a whole
    plan          what a run computes of the arrays of a tile: which are one memory, which have elements in the columns
    schedule      which loops over a row that takes, and what is kept between them
    geometry      how a kernel goes through its arrays

Nothing here knows an operator: `graphir.formula` says what one computes. The formulas of a run's nodes become one set
of expressions, equal ones once, with as many loops over a row as its sums and maxima demand: a layer norm behind an add
is one pass over memory where calls make several.

`graphir.backends.numpy.fast` writes that for Numba, `graphir.backends.cupy` in CUDA: a warp or a block to a row, sums
over rows in a fixed order by a second kernel, everything computed in float32 or float64 and converted as it is loaded
and stored.
"""
