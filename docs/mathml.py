"A Sphinx extension: LaTeX becomes MathML at build time, so pages need neither a script nor a network for it"
from docutils.nodes import SkipNode
from math_core import LatexError, LatexToMathML
from sphinx.util import logging


def visit(self, node):
    block = node.tagname == 'math_block'
    try: html = LatexToMathML().convert_with_local_state(node.astext(), displaystyle=block)
    except LatexError as e:
        logging.getLogger(__name__).warning('%s: %s', e, node.astext(), location=node)
        html = ''
    self.body.append(f'<div class="math">{html}</div>' if block else html)
    raise SkipNode


def setup(app):
    app.add_html_math_renderer('mathml', (visit, None), (visit, None))
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
