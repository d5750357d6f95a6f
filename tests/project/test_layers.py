"""The layers: imports lead downwards only, and `import graphir` loads nothing that a graph does not need.

Every module belongs to a room; a room imports from itself and from the storeys below its own, at the top of a
file or late, for types or at run time. Rooms of one storey do not know each other, and no modules import each other
in a circle.
"""

from __future__ import annotations

import ast
import subprocess
import sys

import networkx as nx
import pytest

from tests.support.paths import ROOT

#: From the ground up. A new room has to find its place here.
STOREYS = (
    (
        "graphir.errors",
        "graphir.extras",
        "graphir.interrupts",
        "graphir.late",
        "graphir.memory",
        "graphir.processor",
        "graphir.reading",
        "graphir.version",
    ),
    ("graphir.files", "graphir.launch", "graphir.options"),
    ("graphir.ir", "graphir.tokenizer"),
    ("graphir.formula",),
    ("graphir.operators",),
    ("graphir.models", "graphir.text", "graphir.cost", "graphir.passes", "graphir.backends"),
    ("graphir.compiler", "graphir.hub", "graphir.why"),
    ("graphir.drawing",),
    ("graphir.shown", "graphir.training", "graphir.checking", "graphir.generation"),
    ("graphir",),
    ("graphir.testing", "graphir.guide", "graphir.export"),
    ("graphir.cli",),
    ("graphir.__main__",),
)
STOREY_OF = {room: level for level, rooms in enumerate(STOREYS) for room in rooms}

#: Kernels receive their array module as `xp`: only what runs graphs, and what is above, may import one.
ARRAY_LIBRARIES = {"numpy", "scipy", "cupy", "numba", "torch", "jax"}
WITHOUT_ARRAYS = (*(room for rooms in STOREYS[:5] for room in rooms), "graphir.models", "graphir.text", "graphir.cost")
WITHOUT_ARRAYS += ("graphir.passes", "graphir.compiler", "graphir")


def sources():
    """Every module's dotted name, with its file; the two links are followed, each file comes once."""
    for folder in ("graphir", "graphir/passes", "graphir/backends"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            # rglob does not follow links, whose folders are listed for themselves.
            parts = file.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


MODULES = dict(sources())


def room_of(module):
    """The longest room that the module lies in; `graphir` itself only for the package's own file."""
    found = [room for room in STOREY_OF if module == room or (room != "graphir" and module.startswith(f"{room}."))]
    return max(found, key=len, default=None)


def imports_of(module):
    """(the module imported from, the line), for every import wherever it stands, by its name in a string, too."""
    file = MODULES[module]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are absolute here"
            for alias in node.names:
                # `from graphir import models` imports the module graphir.models.
                full = f"{node.module}.{alias.name}"
                yield (full if full in MODULES else node.module), node.lineno
        elif isinstance(node, ast.Constant) and is_module(node.value):
            yield node.value, node.lineno  # for `import_module`


def is_module(name):
    """Whether that is a module's name; a package's may only say where data lies."""
    return name in MODULES and MODULES[name].stem != "__init__"


def packages_above(module):
    """The packages that a module lies in, whose own files Python runs before it."""
    parts = module.split(".")
    return {".".join(parts[:count]) for count in range(1, len(parts))}


def import_graph():
    """Who imports whom. Who reaches into a package from outside depends on all that its own file imports, too."""
    graph = nx.DiGraph()
    for module in MODULES:
        for imported, line in imports_of(module):
            entered = packages_above(imported) - packages_above(module) - {module}
            for each in {imported, *entered} & MODULES.keys() - {module}:
                graph.add_edge(module, each, at=f"{MODULES[module]}:{line}")
    return graph


def circles(graph):
    """One circle of each set of modules that all depend on each other: (who imports, who is imported), in order."""
    return [
        nx.find_cycle(graph.subgraph(modules))
        for modules in nx.strongly_connected_components(graph)
        if len(modules) > 1
    ]


def test_all_modules_are_seen():
    assert {"graphir", "graphir.ir.dims", "graphir.passes.autodiff", "graphir.backends.plan"} <= set(MODULES)
    files = [file.resolve() for file in MODULES.values()]
    assert len(set(files)) == len(files)


def test_every_module_has_a_room():
    homeless = [module for module in MODULES if room_of(module) is None]
    assert not homeless, f"no storey for {', '.join(homeless)}; give it a place in STOREYS"


@pytest.mark.parametrize("module", MODULES)
def test_imports_lead_downwards(module):
    home = room_of(module)
    for imported, line in imports_of(module):
        if imported.partition(".")[0] in ("passes", "backends"):
            pytest.fail(f"{MODULES[module]}:{line} imports {imported}; its name is graphir.{imported}")
        if imported.partition(".")[0] != "graphir":
            continue
        room = room_of(imported)
        assert room is not None, f"{MODULES[module]}:{line} imports {imported}, which is not there"
        assert room == home or STOREY_OF[room] < STOREY_OF[home], (
            f"{MODULES[module]}:{line}: {home} must not import {imported}, which is no room below it"
        )


def test_no_modules_import_each_other_in_a_circle():
    graph = import_graph()
    told = ["\n".join(f"  {graph.edges[edge]['at']} imports {edge[1]}" for edge in circle) for circle in circles(graph)]
    assert not told, "modules import each other in circles:\n" + "\n\n".join(told)


def test_imports_of_every_kind_close_a_circle():
    graph = import_graph()
    kinds = {
        "at the top": ("graphir.backends.plan", "graphir.backends.dtypes"),
        "late": ("graphir.backends.communicator.choice", "graphir.backends.communicator.nccl"),
        "for types": ("graphir", "graphir.drawing"),
        "in a string": ("graphir.cli", "graphir.cli.train"),
        "by way of its package": ("graphir.backends.compiled.assignment", "graphir.backends.communicator"),
    }
    for kind, (importer, imported) in kinds.items():
        assert graph.has_edge(importer, imported), f"{importer} imports {imported} {kind}"
        assert circles(nx.compose(graph, nx.DiGraph([(imported, importer)])))
    assert not graph.has_edge("graphir.backends.communicator.agreement", "graphir.backends.communicator")


@pytest.mark.parametrize("module", [module for module in MODULES if room_of(module) in WITHOUT_ARRAYS])
def test_the_language_and_the_passes_import_no_array_library(module):
    for imported, line in imports_of(module):
        library = imported.partition(".")[0]
        assert library not in ARRAY_LIBRARIES, f"{MODULES[module]}:{line} imports {library}; kernels receive xp"


@pytest.mark.parametrize(
    "module", [m for m in MODULES if m.startswith(("graphir.backends.compiled", "graphir.backends.rows"))]
)
def test_what_compiled_backends_share_knows_none_of_them(module):
    for imported, line in imports_of(module):
        own = [engine for engine in ("numpy", "cupy") if f"{imported}.".startswith(f"graphir.backends.{engine}.")]
        assert not own, f"{MODULES[module]}:{line} imports {imported}; engines are handed in"


# -- what is loaded ---------------------------------------------------------------------------------------


def run_python(program):
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300)


def loaded_after(statements):
    """The top-level modules, and graphir's rooms, that a fresh interpreter has loaded after `statements`."""
    program = f"{statements}\nimport sys\nprint(*sys.modules)"
    done = run_python(program)
    assert done.returncode == 0, done.stderr
    modules = done.stdout.split()
    return {module.partition(".")[0] for module in modules} | {room_of(module) for module in modules}


EXTRAS = {"cupy", "mpi4py", "matplotlib", "graphviz", "click", "rich", "torch", "safetensors", "tokenizers", "numba"}
EXTRAS |= {"onnx", "onnxruntime"}
HEAVY = {"numpy", "networkx"}


def test_importing_graphir_loads_the_language_alone():
    loaded = loaded_after("import graphir")
    assert "graphir.operators" in loaded
    assert not loaded & (EXTRAS | HEAVY)
    assert not loaded & {"graphir.passes", "graphir.backends", "graphir.training", "graphir.cli"}


def test_a_graph_is_built_differentiated_and_verified_without_arrays():
    loaded = loaded_after(
        "import graphir as gi\n"
        "from graphir.passes import autodiff, lower, optimize\n"
        "gi.verify(optimize(lower(autodiff(gi.models.transformer(layers=1)))))"
    )
    assert "graphir.passes" in loaded
    assert not loaded & (EXTRAS | HEAVY | {"graphir.backends"})


def test_running_a_graph_loads_numpy_and_no_extra():
    loaded = loaded_after(
        "import graphir as gi\n"
        "block = gi.Builder()\n"
        "graph = block.build(gi.scale(block.input('X'), by=2.0, name='Y'))\n"
        "assert gi.compile(graph, {})({'X': 0.5})['Y'] == 1"
    )
    assert {"numpy", "graphir.passes", "graphir.backends"} <= loaded
    assert not loaded & EXTRAS


def test_a_format_is_loaded_when_something_is_exported():
    loaded = loaded_after("import graphir.export.onnx")
    assert "graphir.export" in loaded
    assert not loaded & EXTRAS


@pytest.mark.parametrize("folder", ["passes", "backends"])
def test_the_two_folders_have_one_name_each(folder):
    done = run_python(f"import {folder}")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ImportError: import graphir.{folder}, not {folder}: a second copy would ")
    assert last.endswith(" a second operator registry")
