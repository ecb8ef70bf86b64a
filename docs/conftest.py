"""What pytest does not look into: the configuration of Sphinx and what it builds."""

collect_ignore = ["conf.py", "_build", "auto_examples"]
