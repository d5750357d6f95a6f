"""What compiled backends share: an optimised graph as tasks, tiles, one arena, and calls on buffers that exist already.

    task, tiles, causal   what is carried out together, in which pieces, and what a causal mask lets be left out
    sights, following     what positions and the like let be left out, run by run; bounds: by which rule
    versions, firsts      a tile's calls with the keys that it sees; what the first tile does for those behind it
    assignment, strided   whose memory each of a task's values has, and until when
    arena, memory         where what passes between tasks lies, and what that comes to
    prepared              all of that, decided before anything is allocated; buffers, once it is
    engine, emission      what a backend brings: arrays, memory, and how a node becomes calls
    kernels               what fused kernels offer, where a backend has any
    locations, writer     where a task's parts lie, and its calls; sums: those of sums over tiles; replay: what is
                          recorded once for all tiles that lie alike; recorder: what has been written, for a proof
    program, segment      all of a rank's calls, between two collectives; exchanges: these
    donation              arrays that a caller gives away
    executable, report    all of it, ready to run; which kernels it calls as they were written, and why

Engines. An engine brings arrays, memory and rules; tasks, tiles, the arena and the writing of programs are the same for
NumPy and CuPy, whom nothing here knows.

Tiles. A tile is to time what a block is to ranks: where a rule lets a factor be split over ranks, work can be cut along
it (`graphir.ir.tiling`); a factor that is contracted makes a sum over tiles. The rules that shard a graph over machines
cut it into pieces for a core's cache, and tell which loop threads may share. What a task's own nodes make has one set
of factors; what comes from outside is read in roles (`graphir.ir.roles`). How wide tiles are and what threads share is
a `Cut`, and every cut is right: `Tiling` only chooses fast ones, and tests draw them at random.

The causal half. A causal mask makes entries with k > q masked, softmax makes 0 of them in every row, one without any
key included, and 0 stays 0 through what is linear; so a block of queries is computed with the keys up to its last,
wherever what lies beyond contributes nothing (`causal.find_causal`). What is stored of the scores is that half: who
makes it says where each tile's part lies (`causal.Half`), who reads it looks its part up. Tasks that pass halves to
each other are cut alike, or store them whole.

What is seen. Where arguments say it, by positions, a window, documents or padding, a run looks at them first
(`sights.Sight`), by a rule on the least and the greatest of ranges that follows from the mask's formula (`bounds`), and
each tile leaves out the keys before the first that one of its queries may see, and behind the last.
The program is written with all keys; a tile gets calls of its own for the keys that it needs when a run first wants
them (`versions`), which take the place of those that it was written with. They are kept, bound as the others are, and
in a checked executable what is put together is proved before it first runs, whatever the positions that lead there.

Memory. From one list of reads, copies of results among them, follows whose memory each of a task's values has and until
when (`assignment`): a part of a buffer of the graph, if need be seen back through the views that it leaves by; a buffer
of the task's own, of a sum that leaves only as something else, or of each thread's terms of one; scratch of a tile; or
that of an operand that nobody reads any more, in any role. What a result is made of in place lies in the result's
buffer; all else shares one arena, placed by lifetimes (`arena`). `executable.memory` prints the peak and what makes it,
`gi.compile(…, memory=bytes)` recomputes more until the plan fits. Results are lent: a buffer is written again when no
array over it is left (`graphir.backends.numpy.results`).

Calls. A node becomes calls by a rule of its operator's own, by its formula, or, where it has neither, by its kernel as
it was written (`writer`). A formula is asked once for each form of a tile's arrays, and replayed where others lie alike
(`replay`). A program is such a list of calls for each thread; running it is `for f, a in calls: f(*a)`.
Threads, each with BLAS on one thread, meet only where one would read what another writes, found by comparing the
addresses they touch. Other arguments are bound by relocating the operands that lie in them (`program`).

Who may call, and when. An executable has one set of buffers, so its runs take turns (`graphir.backends.turns`), in
whatever threads they are asked for; what asks for its own turn again, a kernel or a finaliser, is refused instead of
waiting for ever. What a run has returned stays as it is: results are lent, and a `Run` holds nothing of its executable.
Arrays that are donated have to lie apart from all others (`donation`), for a program is proved with a buffer for each.

Threads know their jobs and nothing of their team, and nothing that an executable has refers back to it, so all of it
ends at once with the last who holds it. What is remembered from graph to graph is bounded, or lives as long as somebody
holds it. Whatever breaks into a run, an interrupt or an error, no thread works for it when it has ended, and no array
is left half bound: what is changed is first marked as unknown. A forked child gets locks and threads of its own
(`graphir.backends.forks`); one of a rank, or of a GPU's process, is told that it cannot run.

How it is held. `tests/backends/compiled` compares all of it with the interpreter, node by node, on random graphs,
variants, plans and levels, and where sizes, tiles and threads meet; `tests/backends/test_interrupted_runs.py` breaks in
before every line of a run. `tests/campaign` runs small random graphs in every executor, on ranks that exchange
messages, too, under cuts drawn for each task, in poisoned memory, and shrinks what departs; faults that it puts in on
purpose the proof (`graphir.backends.proof`) or the numbers have to find.
"""
