"""The documentation site: `make docs`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

from residual_lens import __version__

project = "residual_lens"
author = "the residual_lens developers"
project_copyright = "2026, the residual_lens developers"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "generated_tables",
    "head_atlas",
    "mathml",
    "public_names",
]
exclude_patterns = ["_build", "_extensions"]
nitpicky = True
# What stands indented in pages are commands; Python is fenced and says so.
highlight_language = "console"

myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

# Notebooks lie in git without outputs, and are run anew where they or the package have changed.
nb_execution_mode = "force"
nb_execution_timeout = 120
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_merge_streams = True

autodoc_default_options = {
    "members": True,
    "member-order": "bysource",
    # Of bases only ours: what PyTorch, TransformerLens and scikit-learn add is documented there.
    "inherited-members": "Module, HookedRootModule, PyTorchModelHubMixin, ActivationCache, BaseEstimator, "
    "_MetadataRequester, ABC, Dataset",
}
autodoc_class_signature = "mixed"
autodoc_typehints = "signature"
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_rtype = False
default_role = "public"
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"residual_lens {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "tango"
pygments_dark_style = "monokai"

# `$ ` is no part of a command, nor is what a session printed.
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

linkcheck_timeout = 20
linkcheck_retries = 2
