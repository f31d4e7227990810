"""How well and how fast samplers search, with statistics over seeds: `python -m nas.benchmark`."""
