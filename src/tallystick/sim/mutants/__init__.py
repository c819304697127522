"""Mutants: the engine with one safeguard switched off, to measure whether the auditor would notice.

They live here and nowhere else. Each replaces a cell of the transition table, a function or a method for the
length of one run, and puts it back. Production code never imports this package, and a test says so.
"""
