"""The fault suite: real launches, real signals, and what must hold afterwards (`make faults`).

A program rather than tests: it takes most of an hour and ends in a table. `test_faults.py` runs a
fast selection of it.
"""
