"""The guide: Transformers and their parallelism in nine sections, made for a model of the reader's choice.

    guide(GuideConfig(layers=12, heads=12, dp=2, tp=3))     # one HTML document

text/          the prose                        markup         its few marks, to HTML
math           formulas, to MathML              tables         operators and tensors, from the graph
communication  collectives and what they cost   proof          parallel equals single, measured
config         the model and the mesh           document       all of it put together
page           the HTML around it               own            the same of a graph of one's own
"""

from typing import TYPE_CHECKING

from graphir.guide.config import GuideConfig
from graphir.late import late

if TYPE_CHECKING:
    from graphir.guide.document import guide
    from graphir.guide.own import sheet
    from graphir.guide.proof import Proof, prove

__getattr__ = late(__name__, {"Proof": "proof", "guide": "document", "prove": "proof", "sheet": "own"})

__all__ = ["GuideConfig", "Proof", "guide", "prove", "sheet"]
