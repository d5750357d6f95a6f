"""The guide: its notation, its tables against the documents' own, its proofs and costs, and the whole of it."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import lru_cache
from html.parser import HTMLParser
from unicodedata import normalize

import pytest

import graphir as gi
from graphir.drawing import figures
from graphir.errors import ConfigError
from graphir.guide import GuideConfig, guide, prove
from graphir.guide.communication import communication, sharded
from graphir.guide.document import SECTIONS, section_text
from graphir.guide.markup import headings, inline, to_html
from graphir.guide.math import mathml
from graphir.guide.model import differences
from graphir.guide.proof import Proof, proof_html
from graphir.guide.tables import dictionary, operations, tensors
from graphir.passes import autodiff, lower

SMALL = GuideConfig(layers=2, heads=6, width=48, sequence=12, batch=4, vocabulary=17)


class Cells(HTMLParser):
    """The rows of a page's tables as lists of plain text."""

    def __init__(self, page):
        super().__init__()
        self.rows, self.open = [], False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.open = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.open = False

    def handle_data(self, data):
        if self.open:
            self.rows[-1][-1] += data


def rows(page):
    return Cells(page).rows


@lru_cache
def graph():
    return autodiff(gi.models.transformer(layers=1, text=True), loss="L")


# -- formulas ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("formula", "inside"),
    [
        ("x", "<mi>x</mi>"),
        ("D_h", "<msub><mi>D</mi><mrow><mi>h</mi></mrow></msub>"),
        ("x_i^2", "<msubsup><mi>x</mi><mrow><mi>i</mi></mrow><mrow><mn>2</mn></mrow></msubsup>"),
        (r"\frac{a}{b}", "<mfrac><mrow><mi>a</mi></mrow><mrow><mi>b</mi></mrow></mfrac>"),
        (r"\sum_k x", "<munder><mo>∑</mo><mrow><mi>k</mi></mrow></munder><mi>x</mi>"),
        (r"d\mathbf{X}", '<mi mathvariant="normal">d</mi><mi mathvariant="normal" class="tensor">X</mi>'),
        (r"d = 1", "<mi>d</mi><mo>=</mo><mn>1</mn>"),
        (r"\text{a b < c}", "<mtext>a b &lt; c</mtext>"),
        (r"\widetilde{W}", '<mover accent="true"><mrow><mi>W</mi></mrow><mo>~</mo></mover>'),
        ("a - b", "<mo>−</mo>"),
        (r"g'(x)", "<msup><mi>g</mi><mrow><mo>′</mo></mrow></msup>"),
        ("<&>", "<mo>&lt;</mo><mo>&amp;</mo><mo>&gt;</mo>"),
    ],
)
def test_a_formula_becomes_mathml(formula, inside):
    assert inside in mathml(formula)


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("x_", r"something is missing at the end, after 'x_'"),
        ("{x", r"'}' expected, not 'the end'"),
        ("x}", r"'}' closes nothing, after 'x'"),
        ("^2", r"'\^' stands alone"),
        (r"\foo", r"\\foo is not known"),
    ],
)
def test_a_formula_that_is_none_is_refused(formula, message):
    with pytest.raises(ConfigError, match=message):
        mathml(formula)


# -- prose ------------------------------------------------------------------------------------------------


def test_marks_become_html_and_all_else_is_escaped():
    assert inline("*a* **b** `c<d` it's <script>") == (
        "<em>a</em> <strong>b</strong> <code>c&lt;d</code> it’s &lt;script&gt;"
    )


def test_blocks_headings_lists_directives_and_words():
    text = "# 1 One & all\n\nSome {size}\nwords.\n\n- a\n  b\n- c\n\n1. d\n\n{shout x y}\n\n$$x$$"
    made = to_html(text, {"shout": lambda *given: f"<b>{given}</b>"}, {"size": "<few>"})
    assert '<h2 id="section-1"><span class="number">1</span> One &amp; all</h2>' in made
    assert "<p>Some &lt;few&gt;\nwords.</p>" in made
    assert "<ul><li>a b</li><li>c</li></ul>" in made
    assert "<ol><li>d</li></ol>" in made
    assert "<b>('x', 'y')</b>" in made
    assert '<math display="block"' in made


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{nothing here}", "asks for {nothing here}, but there are only shout"),
        ("a {b} c", "asks for {b}, but there are"),
    ],
)
def test_what_the_text_may_not_ask_for(text, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        to_html(text, {"shout": str}, {})


def test_the_text_has_the_nine_sections_and_asks_for_every_figure():
    texts = [section_text(name) for name in SECTIONS]
    assert [headings(text)[0].number for text in texts] == list("123456789")
    asked = re.findall(r"^\{figure (\S+)\}$", "\n".join(texts), re.MULTILINE)
    assert len(set(asked)) == len(asked)
    assert set(asked) == {each.id for each in figures()}


# -- tables -----------------------------------------------------------------------------------------------

#: The symbols of the documents' tables (A 1.2.2, 1.3.3, 1.4.3, 1.5.3), as plain text, with their shapes.
SYMBOLS = {
    "embedding": {
        "text": "[B]", "T": "[B, S]", "Ẽ": "[V, D]", "Xtok": "[B, S, D]", "P̃": "[S, D]", "Xemb": "[B, S, D]",
        "X": "[B, S, D]", "P̃θ": "[S, D]",
    },
    "layer0/mha": {
        "X": "[B, S, D]", "Xnorm": "[B, S, D]", "Q": "[B, NH, S, Dh]", "K": "[B, NH, S, Dh]", "V": "[B, NH, S, Dh]",
        "W̃Q": "[D, D]", "W̃K": "[D, D]", "W̃V": "[D, D]", "W̃O": "[D, D]", "b̃O": "[D]", "A": "[B, NH, S, S]",
        "AS": "[B, NH, S, S]", "AOheads": "[B, NH, S, Dh]", "AOcat": "[B, S, D]", "AOlin": "[B, S, D]",
        "AObias": "[B, S, D]", "Aout": "[B, S, D]", "dAout": "[B, S, D]", "dQ": "[B, NH, S, Dh]",
        "dK": "[B, NH, S, Dh]", "dV": "[B, NH, S, Dh]", "dKT": "[B, NH, Dh, S]", "dXnorm,Q": "[B, S, D]",
        "dXnorm,K": "[B, S, D]", "dXnorm,V": "[B, S, D]", "dXnorm": "[B, S, D]", "dX": "[B, S, D]",
        "dW̃Q": "[D, D]", "dW̃K": "[D, D]",
    },
    "layer0/mlp": {
        "X": "[B, S, D]", "H": "[B, S, D]", "W̃up": "[D, Dff]", "b̃up": "[Dff]", "Zup": "[B, S, Dff]",
        "Aup": "[B, S, Dff]", "Hinter": "[B, S, Dff]", "W̃down": "[Dff, D]", "b̃down": "[D]", "Zdown": "[B, S, D]",
        "Aout": "[B, S, D]", "Y": "[B, S, D]", "dY": "[B, S, D]", "dZdown": "[B, S, D]",
        "dHinter (dUin)": "[B, S, Dff]", "dZup": "[B, S, Dff]", "dH": "[B, S, D]", "dX": "[B, S, D]",
        "dW̃up": "[D, Dff]", "dW̃down": "[Dff, D]", "db̃up": "[Dff]", "db̃down": "[D]",
    },
    "output": {
        "Aout": "[B, S, D]", "Wlm": "[D, V]", "b̃lm": "[V]", "Zlin": "[B, S, V]", "Zbias": "[B, S, V]",
        "P": "[B, S, V]", "Y": "[B, S]", "ℒ": "scalar", "dZbias": "[B, S, V]", "dZlin": "[B, S, V]",
        "dWlm": "[D, V]", "db̃lm": "[V]", "dAout": "[B, S, D]", "dℒ": "scalar",
    },
}  # fmt: skip
OPERATORS = {
    "embedding": {"Tokenizer", "Embedding Lookup", "+", "DO", "BC"},
    "layer0/mha": {"LN", "DO", "+", "T", "R", "C", "SM", "S", "BC", "dS", "dSM", "dC", "dLN", "•"},
    "layer0/mlp": {"LN", "•", "+", "GL", "DO", "T", "Σ"},
    "output": {"S", "CE", "ARG", "TOP-k", "T", "BC", "dCE", "dAddB", "Σ"},
}


@pytest.mark.parametrize("scope", SYMBOLS)
def test_a_block_s_table_has_every_tensor_of_the_documents_with_its_shape(scope):
    found = {symbol: shape for symbol, _, shape, _ in rows(tensors(graph(), scope))[1:]}
    wanted = {normalize("NFD", symbol): shape for symbol, shape in SYMBOLS[scope].items()}
    missing = {symbol: shape for symbol, shape in wanted.items() if found.get(symbol) != shape}
    assert not missing, f"not in the table: {missing}; it has {found}"


@pytest.mark.parametrize("scope", OPERATORS)
def test_a_block_s_table_has_every_operator_of_the_documents(scope):
    graphs = (graph(), lower(graph()), gi.models.transformer(layers=1, decode="top-k"))
    found = {symbol for symbol, _, _ in rows(operations(graphs, scope))[1:]}
    assert OPERATORS[scope] <= found


def test_a_tensor_s_note_is_the_expression_that_makes_it_and_who_caches_it():
    notes = {
        normalize("NFC", symbol): (normalize("NFC", name), normalize("NFC", note))
        for symbol, name, _, note in rows(tensors(graph(), "layer0/mha"))[1:]
    }
    assert notes["A"] == ("Raw scores", "Q • KT")
    assert notes["AS"] == ("Attention weights", "S(Z); cached for dS")
    assert notes["AObias"][1] == "AOlin + BCB,S(b̃O)"
    assert notes["dXnorm"] == ("Gradient of Xnorm", "dXnorm,Q + dXnorm,K + dXnorm,V")
    assert notes["dW̃O"][0] == "Gradient of W̃O"
    assert notes["W̃Q"][1] == "trained; cached for dMatmul"


def test_the_dictionary_has_every_operator_with_a_d_operator():
    found = [(forward, backward) for forward, _, backward, _ in rows(dictionary())[1:]]
    assert {("•", "dMatmul"), ("S", "dS"), ("SM", "dSM"), ("DO", "dDO"), ("GL", "dGL"), ("LN", "dLN")} <= {*found}
    assert len(found) == sum(each.d_operator is not None for each in gi.operators())


# -- proofs and costs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", ["megatron", "column", "sequence", "data", "zero3", "data+megatron"])
def test_every_plan_of_the_guide_equals_one_rank(plan):
    proof = prove(SMALL, plan, layers=1)
    assert proof.holds
    assert {"layer0/mha/A_out", "layer0/mlp/Y", "output/L", "layer0/mha/dW_Q", "embedding/dE"} <= set(proof.deviations)
    assert set(proof.of("*/mlp/*").deviations) < set(proof.deviations)
    assert "equal up to rounding" in proof_html(proof)


def test_a_proof_that_fails_says_so():
    made = proof_html(Proof("megatron", gi.Mesh(tp=2), {"L": 0.0, "layer0/mha/dW_Q": 0.25}))
    assert "NOT equal" in made
    assert "2.5e-01" in made
    assert "layer0/mha/dW_Q" in made


def test_the_costs_of_a_layer_under_tensor_parallelism():
    found = rows(communication(SMALL, "megatron"))[1:]
    assert [row[:4] for row in found] == [
        ["forward", "AOlin mha", "[B, S, D]", "AR over tp"],
        ["forward", "Zdown mlp", "[B, S, D]", "AR over tp"],
        ["backward", "dH mlp", "[B, S, D]", "AR over tp"],
        ["backward", "dXnorm mha", "[B, S, D]", "AR over tp"],
    ]
    # B S D = 4 · 12 · 48 floats; a ring of three sends 2 · 2/3 of them, the root of a naive one twice.
    payload = 4 * 4 * 12 * 48
    assert {(row[5], row[6]) for row in found} == {
        (f"{payload * 4 / 3 / 1000:.3g}\u202fkB", f"{payload * 2 / 1000:.3g}\u202fkB")
    }


def test_a_guide_s_mesh_has_the_axes_that_the_plan_uses():
    assert sharded(SMALL, "data").mesh == gi.Mesh(dp=2)
    assert sharded(SMALL, "data+megatron").mesh == gi.Mesh(dp=2, tp=3)


# -- the whole --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole():
    return guide(SMALL)


@pytest.mark.slow
def test_the_guide_loads_nothing_and_runs_only_its_contents(whole):
    assert whole.count("<script") == 1
    (script,) = re.findall(r"<script>(.*?)</script>", whole, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in whole
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#)""", whole)
    assert set(re.findall(r"url\((.{5})", whole)) <= {"data:"}
    assert "default-src 'none'" in whole


@pytest.mark.slow
def test_the_guide_is_well_formed_and_every_link_leads_somewhere(whole):
    anchors = re.findall(r'\bid="([^"]+)"', whole)
    assert len(set(anchors)) == len(anchors)
    assert set(re.findall(r'href="#([^"]+)"', whole)) <= set(anchors)
    for tag in ("p", "table", "figure", "svg", "math", "div", "section", "ul", "ol", "li", "td", "tr"):
        assert len(re.findall(rf"<{tag}[ >]", whole)) == whole.count(f"</{tag}>"), tag


@pytest.mark.slow
def test_a_title_stands_in_the_caption_alone_and_wide_things_scroll_by_themselves(whole):
    for title in ("Multi-head attention, forward", "Input embedding, forward"):
        drawn = [each for each in re.findall(r"<svg.*?</svg>", whole, re.DOTALL) if f">{title}<" in each]
        assert drawn == []
        assert whole.count(f". {title}.</strong>") == 1
    for kind, content in (("drawing", "<svg"), ("wide", "<table")):
        scrolled = re.findall(rf'<div class="{kind}" role="region" tabindex="0" aria-label="[^"]+">{content}', whole)
        assert len(scrolled) == whole.count(content)


@pytest.mark.slow
def test_the_guide_has_its_figures_tables_proofs_and_numbers(whole):
    assert whole.count("<figure ") == len(figures())
    assert whole.count('class="operations"') == whole.count('class="tensors"') == 4
    parallel = [each.id for each in figures() if each.id.startswith(("tp-", "dp-"))]
    for id in parallel:
        assert re.search(rf'id="figure-{id}"((?!</figure>).)*</figure><p class="proof">', whole, re.DOTALL), id
    assert whole.count('class="proof"') == len(parallel) + 2, "and sequence parallelism and ZeRO, which have no figure"
    assert "NOT equal" not in whole
    assert "two identical layers" in whole
    assert "B = 4, S = 12, D = 48, N_H = 6, D_ff = 192, V = 17" in whole
    for number in "123456789":
        assert f'id="section-{number}"' in whole


@pytest.mark.slow
def test_the_guide_builds_for_other_configurations():
    made = guide(GuideConfig(layers=3, heads=8, width=64, sequence=16, batch=6, vocabulary=32, dp=3, tp=4))
    assert "three identical layers" in made
    assert "dp=3, tp=4" in made
    assert "NOT equal" not in made


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (GuideConfig(heads=0), "--heads must be at least 1, not 0"),
        (GuideConfig(heads=4, tp=3), "heads=4 do not divide among tp=3"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        guide(config)


# -- other models -------------------------------------------------------------------------------------------


def test_a_guide_to_another_model_says_where_its_parts_are_others():
    model = gi.models.blueprint("gemma3-1b")
    found = {row[0]: row[1:] for row in rows(differences(model, "gemma3-1b"))}
    assert found["Norm"] == ["LN, ε = 1e-05", "RMS, ε = 1e-06, γ + 1"]
    assert found["Window"] == ["none", "512 places, in 5 of 6 layers"]
    assert found["Positions"][1] == "queries and keys are turned, base 1,000,000; 10,000 in layers with a window"
    assert "Attention" not in found  # causal, as the text has it


def test_its_numbers_costs_and_proofs_are_the_models():
    config = GuideConfig.of_model("llama3-8b", gi.models.blueprint("llama3-8b"), batch=4, tp=2)
    assert {name: config.numbers[name] for name in ("B", "S", "D", "N_KV", "G", "D_h")} == {
        "B": 4,
        "S": 1024,
        "D": 4096,
        "N_KV": 8,
        "G": 4,
        "D_h": 128,
    }
    assert config.layers == 32
    assert "all 32" in communication(config, "sequence")
    assert prove(config, "megatron", layers=1).holds
    with pytest.raises(gi.errors.DimError, match="N_KV"):
        communication(GuideConfig.of_model("llama3-8b", gi.models.blueprint("llama3-8b"), tp=5), "megatron")


@pytest.mark.slow
def test_a_guide_to_another_model_is_whole():
    page = guide(GuideConfig.of_model("qwen3", gi.models.blueprint("qwen3")))
    assert page.count("<figure ") == sum(section_text(name).count("{figure") for name in SECTIONS)
    assert "proof failed" not in page
