"""What compiled backends share: an optimised graph as tasks, tiles, one arena, and calls on buffers that exist already.

task, tiles, causal   what is carried out together, in which pieces, and what a causal mask lets be left out
storage, memory       where every value lies, and what that comes to
prepared              all of that, decided before anything is allocated; buffers, once it is
engine, emission      what a backend brings: arrays, memory, and rules that say what a node is by recording calls
writer, program       a task's calls, and all of a rank's
exchanges             collectives between programs
executable            all of it, ready to run
"""
