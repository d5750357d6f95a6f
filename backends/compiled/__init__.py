"""What compiled backends share: an optimised graph as tasks, tiles, one arena, and calls on buffers that exist already.

task, tiles, causal   what is carried out together, in which pieces, and what a causal mask lets be left out
assignment, strided   whose memory each of a task's values has, and until when
arena, memory         where what passes between tasks lies, and what that comes to
prepared              all of that, decided before anything is allocated; buffers, once it is
engine, emission      what a backend brings: arrays, memory, and rules that say what a node is by recording calls
kernels               what fused kernels offer, where a backend has any
locations, writer     where a task's parts lie, and its calls; sums: those of sums over tiles; recorder: what has been
                      written, put down for a proof
program, exchanges    all of a rank's calls, and the collectives between them
executable            all of it, ready to run
"""
