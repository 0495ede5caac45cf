"""Sphinx: the pages here, the reference from docstrings, and a gallery of the examples."""

from sklearn_hfl import __version__

project = "sklearn_hfl"
author = "The sklearn_hfl developers"
version = release = __version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_gallery.gen_gallery",
]
# Where the repository is browsed this page lists what design/index.rst does here.
exclude_patterns = ["design/README.md"]
# Docstrings that scikit-learn's base classes hand down refer to its own pages.
suppress_warnings = ["ref.ref", "ref.term"]

# $...$ and $$...$$ are formulas, here and where the repository is browsed.
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
numpydoc_show_class_members = False
autodoc_default_options = {"members": True, "inherited-members": "BaseEstimator"}

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "ignore_pattern": r"quickstart\.py",
    "backreferences_dir": None,
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_signature": False,
}
html_theme = "pydata_sphinx_theme"
html_title = "sklearn_hfl"
html_theme_options = {"show_prev_next": False, "navbar_align": "left"}
html_sidebars = {"index": [], "start": [], "api": []}
