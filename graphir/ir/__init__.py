"""The language: dims, types, signatures, operators, graphs, and what can be said of them without running.

    dims, layout, types, value        named sizes, how a value lies on a mesh, both in a type, and a value that has one
    signature, attributes, declaration, traits, operator, gradient
                                      an operator from one string and its kernel, what it promises, and its gradient
    infer, inference, assignment      what a type check finds of a node, on one rank and on a mesh
    graph, builder, fused             nodes that do not change, who makes them, and nodes that hold a graph
    verify, purpose                   every rule again, and what each collective is there for
    tiling, roles, analysis, extent   what can be cut, what is read in how many ways, who needs whom, how large it gets
    pickled, source, notation, frozen, collector, disjoint
                                      graphs in pickles, the author's lines, the documents' names, and the rest

A value's life:

    block.input("X", (B, S, D))            Value: a name and a type, owned by its builder
    gi.matmul(X, W, name="Z_up")           Operator.__call__ -> Builder.emit -> Operator.infer (cached) -> Node
    graph = block.build(Z)                 Graph: immutable
    autodiff(graph)                        reads one graph, fills another builder
    gi.compile(graph, sizes)               verify, dce, the pass pipeline, tiles, one arena
    run(parameters, {"X": …})              check what comes in, then the prepared calls

A value's identity is its scope and local name: `layer0/mha/W_Q`. A block may have its own name for what enters it (an
*alias*, `layer0/mha/X`), and then has its own gradient of it: `layer0/mha/dX` is what flows back through that block,
and the sum over blocks is the value's gradient.

`Meta` (scope, phase, the author's line, the node a d-node belongs to, why a pass inserted it) is printed and left out
of equality. An error is raised where it was caused: a type error on the line that called the operator, with the
operands' named shapes and the signature that they miss.
"""
