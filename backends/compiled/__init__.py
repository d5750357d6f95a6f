"""What compiled backends share: an optimised graph as tasks, tiles, one arena, and calls on buffers that exist already.

    task, tiles, causal   what is carried out together, in which pieces, and what a causal mask lets be left out
    storage, memory       where every value lies, and what that comes to
    emission              how a backend says what a node is: rules that record calls
    writer, program       a task's calls, and all of a rank's
    exchanges, results    collectives between programs, and what is handed to the caller
"""
