"""Sphinx's settings for the site; build.py runs it."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

project = "latentc"
author = "the authors of latentc"
html_title = "latentc"

extensions = ["myst_nb", "navigation"]
# Notebooks are stored with their outputs; the tests run them.
nb_execution_mode = "off"
nb_merge_streams = True
myst_heading_anchors = 6
smartquotes = False
highlight_language = "none"

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_theme_options = {
    "top_of_page_buttons": [],
}
