"""One file a runtime; `predictors.measure.backend` imports the one that is asked for."""
