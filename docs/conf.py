"Sphinx's settings; the pages are made by pages.py, so start with `make docs`"
import html
import json
import sys
from functools import cache
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1]/"tools")]
from run_notebooks import settings

cfg = settings()
REPOSITORY = f"https://github.com/{cfg['user']}/{cfg['repo']}"
project, author, copyright = cfg['title'], cfg['author'], cfg['copyright'].replace('%(author)s', cfg['author'])
release = cfg['version']
extensions = ['myst_nb', 'sphinx_copybutton', 'mathml']
templates_path = ['_templates']

nb_execution_mode = 'off'  # the outputs are those that the notebooks store
nb_merge_streams = True
nb_mime_priority_overrides = [('html', 'text/html', 0)]
myst_enable_extensions = ['amsmath', 'attrs_block', 'dollarmath', 'html_image']
myst_heading_anchors = 4

nitpicky = True  # a link to a name that isn't there is a warning, thus an error
highlight_language = 'none'  # cells say that they are Python, other blocks may be output
smartquotes = add_module_names = False
toc_object_entries_show_parents = 'hide'

html_theme, html_title = 'furo', project
html_theme_options = dict(top_of_page_buttons=[], source_repository=REPOSITORY)
html_sidebars = {'**': [f'sidebar/{o}.html' for o in ('brand', 'repository', 'search', 'scroll-start', 'navigation',
                                                      'scroll-end')]}
html_static_path, html_css_files, html_favicon = ['_static'], ['custom.css'], '_static/favicon.svg'
exclude_patterns = ['_extra']
html_math_renderer = 'mathml'
html_copy_source = html_use_index = html_domain_indices = False
pygments_style, pygments_dark_style = 'friendly', 'github-dark'


@cache
def descriptions(folder): return json.loads((Path(folder)/'descriptions.json').read_text())


def describe(app, name, template, context, doctree):
    "What a search engine shows of a page"
    if said := descriptions(app.srcdir).get(name):
        context['metatags'] = f'{context["metatags"]}<meta name="description" content="{html.escape(said)}" />'


def setup(app): app.connect('html-page-context', describe)
