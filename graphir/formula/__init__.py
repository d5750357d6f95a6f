"""What an operator computes, as a formula traced from its kernel.

terms       numbers over named indices
shapes      axes as factors
places      integers that follow from where a block lies
traced      the arrays that a kernel is handed to be traced
module      the array module that goes with them
trace       from an operator to its formula
evaluate    a formula's numbers, by any array module
"""
