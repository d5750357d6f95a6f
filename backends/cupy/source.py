"""From expressions to the text of a CUDA kernel.

    extern "C" __global__ void run(float* a0, const float* a1, …, T c0, long long n0, long long d, …)
        prepared numbers, by one thread into shared memory
        for (Index row = …; row < rows; row += …)
            p0, p1, …                              where the row begins in each array
            T s0 = T(0);
            for (int s = 0; s < STEPS; ++s)        level 0: this thread's columns k, in packs
                s0 += …
            s0 = team_sum<TEAM>(s0);
            for (int s = 0; s < STEPS; ++s)        level 1
                a2[p2 + k] = …
        what this block adds to sums over rows, into its row of the terms y0, …

Names: a arrays, p where a row begins in them, x the strides of their columns, v and r numbers of elements and of rows,
s sums and maxima of a row, w what is kept, t and y terms of sums over rows, h prepared numbers, o and f what these are
made of, c numbers, q ramps and u their steps along the columns, n and g sizes and strides of the loops over rows.
Everything is computed in T, float or double; arrays are converted as they are loaded and stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from graphir.backends.cupy.row_body import KernelSpec, RowBody
from graphir.backends.cupy.scalars import scalar_lines
from graphir.backends.cupy.text import TYPES, indented, module_text
from graphir.backends.rows.scalars import Scalars


@dataclass(frozen=True)
class Prologue:
    """How prepared numbers come about: the types of what they are made of, and their own.

    scalars    what is computed, of its numbers and its operands; None of the two keys of a mask's draws
    arguments  a type that ends in `*` is that of a scalar operand, by its address
    """

    scalars: Scalars | None
    arguments: tuple[str, ...]
    numbers: str
    count: int


def source_of(spec: KernelSpec, prologues: Sequence[Prologue]) -> str:
    """The text of a kernel's module. `CannotWriteError` where none would be right."""
    return _Source(spec, prologues).text()


class _Source:
    """The text of a kernel: its parameters, and what goes on around the body of its loop over rows."""

    def __init__(self, spec: KernelSpec, prologues: Sequence[Prologue]) -> None:
        self.spec, self.form, self.prologues = spec, spec.form, prologues

    def text(self) -> str:
        body = [*self._main()]
        head = f'extern "C" __global__ void __launch_bounds__({self.form.block}) run('
        parameters = ",\n".join("    " + each for each in self._parameters())
        names = [f"typedef {'long long' if self.form.wide else 'int'} Index;"]
        if self.form.team:
            sizes = f"TEAM = {self.form.team}, STEPS = {self.form.steps}, VECTOR = {self.form.vector}"
            names.append(f"const int {sizes}, TEAMS = {self.form.teams};")
        else:
            names.append(f"const int VECTOR = {self.form.vector};")
        return module_text(self.spec.dtype, "\n".join([*names, "", head, parameters, ") {", *indented(body), "}", ""]))

    def _parameters(self) -> Iterator[str]:
        spec = self.spec
        for i in spec.used:
            yield f"{'' if i in spec.written else 'const '}{TYPES[spec.kinds[i].dtype]}* __restrict__ a{i}"
        yield from (f"T* __restrict__ y{i}" for i in range(len(self.spec.terms)))
        yield from (f"{kind}* __restrict__ w{i}" for i, kind in enumerate(self.spec.buffers))
        for i, prologue in enumerate(self.prologues):
            for j, given in enumerate(prologue.arguments):
                yield f"const {given} __restrict__ o{i}_{j}" if given.endswith("*") else f"const {given} f{i}_{j}"
        yield from (f"const T c{i}" for i in range(len(self.spec.row.numbers)))
        yield from (f"const long long n{j}" for j in range(self.spec.loops))
        yield "const long long width"
        for i in spec.used:
            yield from (f"const long long g{i}_{j}" for j in range(self.spec.loops))
            yield f"const long long x{i}"
        for i in range(len(self.spec.row.ramps)):
            yield f"const long long first{i}"
            yield from (f"const long long m{i}_{j}" for j in range(self.spec.loops))
            yield f"const long long u{i}"

    def _main(self) -> Iterator[str]:
        yield "const Index d = Index(width);"
        yield from self._prologue()
        rows = " * ".join(f"Index(n{j})" for j in range(self.spec.loops))
        yield from self._loop_over_rows(rows) if self.form.team else self._loop_over_elements(rows)

    def _loop_over_elements(self, rows: str) -> Iterator[str]:
        yield f"const Index packs = {rows} * (d / VECTOR);"
        yield "const Index threads = gridDim.x * blockDim.x;"
        yield "for (Index pack = blockIdx.x * blockDim.x + threadIdx.x; pack < packs; pack += threads) {"
        yield "    const Index row = pack / (d / VECTOR), k0 = pack % (d / VECTOR) * VECTOR;"
        yield from indented(RowBody(self.spec).lines())
        yield "}"

    def _loop_over_rows(self, rows: str) -> Iterator[str]:
        yield "const int team = threadIdx.x / TEAM, lane = threadIdx.x % TEAM;"
        yield f"const Index rows = {rows};"
        if self.form.slabs:
            yield "const Index slab = Index(blockIdx.y) * (STEPS * TEAM * VECTOR);"
        for i, store in enumerate(self.spec.terms):
            if not store.each:
                yield f"T t{i} = T(0);"
            elif self.form.steps:
                yield f"T t{i}[STEPS * VECTOR] = {{}};"
            else:
                yield f"y{i} += (long long)blockIdx.x * width;"
        if not self.form.steps:
            for i in range(len(self.spec.buffers)):
                yield f"w{i} += (long long)(blockIdx.x * TEAMS + team) * width;"
        yield "const Index start = Index(blockIdx.x) * TEAMS + team;"
        yield "for (Index row = start; row < rows; row += Index(gridDim.x) * TEAMS) {"
        yield from indented(RowBody(self.spec).lines())
        yield "}"
        yield from self._epilogue()

    def _prologue(self) -> Iterator[str]:
        for i, each in enumerate(self.prologues):
            yield f"__shared__ {each.numbers} shared{i}[{each.count}];"
        if self.prologues:
            yield "if (threadIdx.x == 0) {"
            for i, each in enumerate(self.prologues):
                given = [
                    f"number(*o{i}_{j})" if kind.endswith("*") else f"f{i}_{j}" for j, kind in enumerate(each.arguments)
                ]
                if each.scalars is None:
                    yield f"    write_keys({', '.join([*given, f'shared{i}'])});"
                else:
                    yield from (f"    {line}" for line in scalar_lines(each.scalars, given, f"shared{i}", i))
            yield "}"
            yield "__syncthreads();"
        for i, each in enumerate(self.prologues):
            yield from (f"const {each.numbers} h{i}_{j} = shared{i}[{j}];" for j in range(each.count))

    def _epilogue(self) -> Iterator[str]:
        """This block's terms."""
        if any(store.each for store in self.spec.terms) and self.form.steps and self.form.teams > 1:
            yield "__shared__ T total[TEAM * STEPS * VECTOR];"
        for i, store in enumerate(self.spec.terms):
            if not store.each:
                yield f"t{i} = add_numbers<TEAMS, TEAM>(t{i});"
                yield f"if (threadIdx.x == 0) y{i}[blockIdx.x] = t{i};"
            elif self.form.steps and self.form.teams > 1:
                yield f"add_teams<TEAMS, TEAM, STEPS, VECTOR>(t{i}, total);"
                yield f"for (Index k = threadIdx.x; k < d; k += blockDim.x) y{i}[blockIdx.x * width + k] = total[k];"
            elif self.form.steps:
                yield "#pragma unroll"
                yield "for (int i = 0; i < STEPS * VECTOR; ++i) {"
                yield f"    const Index k = {self.spec.slab}(i / VECTOR * TEAM + lane) * VECTOR + i % VECTOR;"
                yield f"    if (k < d) y{i}[blockIdx.x * width + k] = t{i}[i];"
                yield "}"
