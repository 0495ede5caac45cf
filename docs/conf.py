"""Sphinx: the pages here, the reference from docstrings, and a gallery of the examples."""

import re

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode

from sklearn_hfl import __version__

project = "sklearn_hfl"
author = "The sklearn_hfl developers"
version = release = __version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx_gallery.gen_gallery",
]
# Where the repository is browsed this page lists what design/index.rst does here.
exclude_patterns = ["design/README.md"]
# Docstrings that scikit-learn's base classes hand down refer to its own pages.
suppress_warnings = ["ref.ref", "ref.term"]

# $...$ and $$...$$ are formulas, here and where the repository is browsed; ::: makes the cards.
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
numpydoc_show_class_members = False
autodoc_default_options = {"members": True, "inherited-members": "BaseEstimator"}

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "ignore_pattern": r"quickstart\.py",
    "backreferences_dir": None,
    "doc_module": ("sklearn_hfl",),
    "reference_url": {"sklearn_hfl": None},  # names in the code lead to the reference
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_signature": False,
    # Pictures have two or three panels: small squares of them cannot be read.
    "thumbnail_size": (840, 320),
}
html_theme = "pydata_sphinx_theme"
html_title = "sklearn_hfl"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {
    "show_prev_next": False,
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "github_url": "https://github.com/sklearn-hfl/sklearn-hfl",
    "secondary_sidebar_items": {
        "**": ["page-toc"],
        "index": [],
        "gallery/index": [],
        "design/index": [],
        "citing": [],
    },
}
# The left column lists the pages below a page: these have none.
ALONE = ["index", "start", "user_guide", "choosing", "which_variance", "comparison", "cost"]
html_sidebars = {page: [] for page in [*ALONE, "gotchas", "paper", "citing", "search", "genindex"]}

# Methods of every estimator: links at each mention would only distract.
COMMON = {"fit", "predict", "predict_proba", "score", "get_params", "set_params", "plot"}
# `HFLRegressor(likelihood="heteroscedastic")`, `model.predict_interval`, `metrics.nlpd_scorer`.
NAME = re.compile(r"((?:\w+\.)*)(\w+)(?:\(.*\))?", re.DOTALL)


class Links(SphinxPostTransform):
    """Link the names of this package's classes, functions and methods in running text."""

    default_priority = 5

    def run(self, **kwargs: object) -> None:
        page = self.env.current_document.docname
        objects = {
            name: entry
            for name, entry in self.env.domaindata["py"]["objects"].items()
            if entry.objtype in {"class", "data", "exception", "function", "method"}
        }
        for literal in list(self.document.findall(nodes.literal)):
            match = NAME.fullmatch(literal.astext())
            if match is None or match[2] in COMMON or within_link_or_title(literal):
                continue
            found = [n for n in objects if n.rpartition(".")[2] == match[2]]
            # The regressor's method rather than the classifier's, unless this is its page.
            found.sort(key=lambda n: (not n.endswith(match[0] + match[2]), objects[n].docname != page,
                                      "HFLRegressor" not in n, n))  # fmt: skip
            if found and not (entry := objects[found[0]]).docname == page:
                literal.replace_self(make_refnode(
                    self.app.builder, page, entry.docname, entry.node_id, literal.deepcopy(), found[0]
                ))  # fmt: skip


def within_link_or_title(node: nodes.Node) -> bool:
    while node.parent is not None:
        node = node.parent
        if isinstance(node, (nodes.reference, nodes.title, pending_xref)):
            return True
    return False


def setup(app: Sphinx) -> None:
    app.add_post_transform(Links)
