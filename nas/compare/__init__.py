"""Strategies of a search, held against each other with statistics over seeds: `python -m nas.compare`."""
