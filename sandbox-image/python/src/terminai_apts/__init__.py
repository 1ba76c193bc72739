"""T-APTS: the file helpers that agents call inside a sandbox.

Standard library only, Python 3.10 or newer. ``python3 -m terminai_apts CALL`` offers every call to a
host: JSON on standard input, JSON on standard output.
"""

__version__ = "0.1.0"
