"""What a fused kernel computes between products, whatever machine it is for: rows, and expressions over one of them.

expressions        what is computed of a row: operations on its elements, and on numbers of the row as a whole
snippets           what each operator computes of one row, as such expressions
dictionary         all of them: elements, rowwise, loss, numbers
runs               which nodes of a task one kernel computes
plan               what a run computes of the arrays of a tile
schedule           which loops over a row that takes, and what is kept between them
geometry           how a kernel goes through its arrays
"""
