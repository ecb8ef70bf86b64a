"""What pytest does not look into: the configuration of Sphinx and what it builds."""

import importlib.util

collect_ignore = ["conf.py", "_build", "auto_examples"]
if importlib.util.find_spec("sklearn.callback") is None:  # scikit-learn < 1.9
    collect_ignore.append("getting_started.md")
