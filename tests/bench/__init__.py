"""What proxyd costs: measured, not asserted. ``python -m tests.bench all`` measures; ``./check`` times nothing.

Every figure is a ratio to something that ran beside it in the same rounds (socat, haproxy), or a bound that does not
depend on the machine's mood (resident memory). docs/performance.md is written from the results.
"""
