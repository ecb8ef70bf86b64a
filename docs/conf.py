"""Configuration of Sphinx. Build with

python -m sphinx -W --keep-going -b html docs docs/_build/html
"""

import re
from importlib.metadata import version as installed_version

from docutils import nodes

project = "torchlogistic"
author = "The torchlogistic developers"
copyright = author
release = installed_version("torchlogistic")
version = ".".join(release.split(".")[:2])

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_typehints = "none"  # the docstrings name the types
numpydoc_show_class_members = False  # api.md lists the methods
python_maximum_signature_line_length = 88

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"[\\/]plot_",
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,
}

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "pydata_sphinx_theme"
html_title = f"torchlogistic {release}"
html_show_sourcelink = False
html_sidebars = {"**": []}
html_theme_options = {
    "logo": {"text": "torchlogistic"},
    "header_links_before_dropdown": 5,
    "navbar_persistent": ["search-button"],
    "navbar_end": ["theme-switcher"],
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
}


def mend_docstring(app, what, name, obj, options, lines):
    """Mend what numpydoc leaves: names that read as references, labels of citations."""
    for i, line in enumerate(lines):
        line = re.sub(r"\((\w+_),\)", r"(``\1``,)", line)
        if what == "module":
            line = re.sub(r"^\.\. \[R[0-9a-f]+-(\d+)\]", r"\1.", line)
            line = re.sub(r"\[R[0-9a-f]+-(\d+)\]_", r"[\1]", line)
        lines[i] = line


def drop_last_lines(app, doctree):
    """Drop the empty line that ends a doctest before the closing fence."""
    for block in doctree.findall(nodes.literal_block):
        if block.rawsource == block.astext():
            block.rawsource = block.astext().rstrip("\n")
            block[:] = [nodes.Text(block.rawsource)]


def setup(app):
    app.connect("autodoc-process-docstring", mend_docstring, priority=900)
    app.connect("doctree-read", drop_last_lines)
