"""Is a parallel run right, and where does it first depart? Parity, dumps from elsewhere, faults, and reasons.

    from graphir.checking import check

    report = check(single, parallel, sizes, parameters, {"T": ids, "Y": targets, "seed": 0, "step": 0})
    print(report.text())

reference  the single run in float64, and how far rounding alone may lead from it
compare    one value against what it should be
parity     whole runs, value by value
programs   what is compiled, for its results alone and to return every value
report     what was found
dump       tensors that another program left, and `names`, what they are called here
faults     what can go wrong, done on purpose, and `campaign`, what was found of it
options    what a model that is checked may vary in
setting    what is checked: a graph, its mesh, its plan and its sizes
position   small sizes and arguments in general position, for any graph
whole      any graph on one rank and sharded, in one call
"""

from typing import TYPE_CHECKING

from graphir.late import late

if TYPE_CHECKING:
    from graphir.checking.campaign import Campaign, Outcome, inject
    from graphir.checking.compare import Comparison
    from graphir.checking.dump import Dump, assign, check_dump, infer_sizes, read_dump
    from graphir.checking.faults import Fault, FaultyExecutable, faults_of
    from graphir.checking.names import Rule, read_rules
    from graphir.checking.parity import check
    from graphir.checking.report import Departure, Report
    from graphir.checking.setting import Setting, settings
    from graphir.checking.whole import check_graph

__getattr__ = late(
    __name__,
    {
        "Campaign": "campaign",
        "Comparison": "compare",
        "Departure": "report",
        "Dump": "dump",
        "Fault": "faults",
        "FaultyExecutable": "faults",
        "Outcome": "campaign",
        "Report": "report",
        "Rule": "names",
        "Setting": "setting",
        "assign": "dump",
        "check": "parity",
        "check_dump": "dump",
        "check_graph": "whole",
        "faults_of": "faults",
        "infer_sizes": "dump",
        "inject": "campaign",
        "read_dump": "dump",
        "read_rules": "names",
        "settings": "setting",
    },
)

__all__ = [
    "Campaign",
    "Comparison",
    "Departure",
    "Dump",
    "Fault",
    "FaultyExecutable",
    "Outcome",
    "Report",
    "Rule",
    "Setting",
    "assign",
    "check",
    "check_dump",
    "check_graph",
    "faults_of",
    "infer_sizes",
    "inject",
    "read_dump",
    "read_rules",
    "settings",
]
