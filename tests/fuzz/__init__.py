"""Hostile input: a generator that knows the grammar, and the properties that must hold whatever goes in.

choices.py     where decisions come from: a seed, or bytes that hypothesis, atheris or a corpus give
streams.py     whole migration streams: legal, lying, forged, broken
documents.py   texts: vmdesc, configuration, profiles, host descriptions, control requests
targets.py     what is fed with them, and what must hold
campaign.py    millions of them; ``python -m tests.fuzz run``
coverage.py    coverage-guided with atheris; ``python -m tests.fuzz.coverage``
"""
