"""XLA: a graph as one jitted function of JAX, on whatever devices JAX has.

    library      JAX, loaded when it is asked for; its devices, as a mesh
    module       `xp` for kernels: jax.numpy, and what kernels ask of an array module beside
    draws        random bits and masks, of seeds that are known only when the program runs
    products     products as XLA has them: of as many dims as their operands have
    trial        kernels of a user's, tried on numbers: what is written for NumPy may mean something else here
    collectives  the five collectives, as those of a program that every device runs
    program      the function of a graph, its nodes' kernels called on what JAX traces
    executable   what `gi.compile` returns: arguments in, compiled once, state that stays on its devices

A node's meaning is its kernel, called once on JAX's tracers; there is no second dictionary. Nothing of a plan, a fused
node or a buffer is used: XLA decides all of that by itself, which makes it a judge of those who do so here.

What is other than with NumPy, and cannot be seen before there are numbers, is told here. Subnormal numbers are 0 on
CPUs. What dropout has dropped is 0, be it infinite or NaN. In kernels of a user's: integers that meet float32 become
float32, where NumPy computes in float64 and rounds in the end; an index that a kernel computes, and that lies beyond an
axis, is no error; an integer divided by 0, and the integer of a float that is too large for it, are what XLA makes of
them. Whatever a kernel reads beside its operands, it reads once, when the graph is compiled.
"""

from graphir.backends.xla.executable import XlaExecutable

__all__ = ["XlaExecutable"]
