"""A directory of one module, which can come first on a path and hides nothing: see run_manager.py."""
