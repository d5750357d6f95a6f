"""Proving a program: that what is about to run computes the graph, read off nobody's plan but the calls themselves.

trace    what a program does, as whoever writes it puts it down: steps, arrays, calls
"""
