"""proxyd under load, and under people who mean no good: a daemon of its own process, on loopback sockets.

``python -m tests.load run`` plays every scenario at its full size and writes the results and their table in
``docs/performance.md``; ``test_load.py`` plays them smaller in CI. Peers are stand-ins that send recorded streams.
"""
