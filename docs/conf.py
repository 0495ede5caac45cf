"""Sphinx: the pages here, the reference from docstrings, and a gallery of the examples."""

import re
from pathlib import PurePosixPath

from docutils import nodes
from sphinx.addnodes import download_reference, pending_xref
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
default_role = "literal"  # `name` in docstrings
highlight_language = "none"  # of blocks that name no language: they are what benchmarks print
# Docstrings that scikit-learn's base classes hand down refer to its own pages.
suppress_warnings = ["ref.ref", "ref.term"]

# $...$ and $$...$$ are formulas, here and where the repository is browsed; ::: makes the cards.
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

templates_path = ["templates"]
autosummary_generate = True
autodoc_typehints = "none"  # numpydoc's sections have them
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False
autodoc_default_options = {
    "members": True,
    "inherited-members": "BaseEstimator",
    # Of scikit-learn and Python, with texts that refer to their own pages and versions.
    "exclude-members": "get_metadata_routing, set_fit_request, set_predict_request, "
    "set_predict_proba_request, set_score_request, add_note, with_traceback",
}
smartquotes = False  # defaults of strings are code

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "ignore_pattern": r"quickstart\.py",
    "backreferences_dir": None,
    "doc_module": ("sklearn_hfl",),
    "reference_url": {"sklearn_hfl": None},  # names in the code lead to the reference
    "download_all_examples": False,
    "remove_config_comments": True,
    "parallel": True,  # as many examples at a time as sphinx-build's --jobs
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
    "header_links_before_dropdown": 5,
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
ALONE = ["index", "api", "start", "user_guide", "choosing", "which_variance", "comparison"]
ALONE += ["cost", "gotchas", "paper", "citing", "search", "genindex"]
html_sidebars = {page: [] for page in ALONE}

# Methods of every estimator: links at each mention would only distract.
COMMON = {"fit", "predict", "predict_proba", "score", "get_params", "set_params", "plot"}
# `HFLRegressor(likelihood="heteroscedastic")`, `model.predict_interval`, `metrics.nlpd_scorer`.
NAME = re.compile(r"((?:\w+\.)*)(\w+)(?:\(.*\))?", re.DOTALL)


class Links(SphinxPostTransform):
    """Link examples, and the names of classes, functions and methods, in running text."""

    default_priority = 5

    def run(self, **kwargs: object) -> None:
        # Where the repository is browsed an example is its script, here its page in the gallery.
        for script in list(self.document.findall(download_reference)):
            path = PurePosixPath(script["reftarget"])
            if path.parent.name == "examples":
                self.link(script, f"gallery/{path.stem}", "", list(script.children))
        objects = self.env.domaindata["py"]["objects"]
        page = self.env.current_document.docname
        for literal in list(self.document.findall(nodes.literal)):
            match = NAME.fullmatch(literal.astext())
            if match is None or match[2] in COMMON or within_link_or_title(literal):
                continue
            found = [name for name in objects if name.rpartition(".")[2] == match[2]]
            # The one whose class or module is named, that of the page, the regressor's.
            found.sort(key=lambda name, given=match[1] + match[2]: (
                not name.endswith(given), objects[name].docname != page, "HFLR" not in name, name
            ))  # fmt: skip
            if found and objects[found[0]].docname != page:
                target = objects[found[0]]
                self.link(literal, target.docname, target.node_id, [literal.deepcopy()])

    def link(self, node: nodes.Node, page: str, anchor: str, text: list[nodes.Node]) -> None:
        here = self.env.current_document.docname
        node.replace_self(make_refnode(self.app.builder, here, page, anchor, text))


def within_link_or_title(node: nodes.Node) -> bool:
    while node.parent is not None:
        node = node.parent
        if isinstance(node, (nodes.reference, nodes.title, pending_xref)):
            return True
    return False


def setup(app: Sphinx) -> None:
    app.add_post_transform(Links)
