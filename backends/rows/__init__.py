"""What a fused kernel computes between products, whatever machine it is for: rows, and expressions over one of them.

    expressions        what is computed of a row: operations on its elements, and on numbers of the row as a whole
    snippets           what each operator computes of one row (elements, rowwise), as such expressions
    runs               which nodes of a task one kernel computes
"""
