"""The predictor against measurements: one module a source of them, each a function `compare(data) -> [Comparison]`."""
