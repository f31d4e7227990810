"""Learners that were tried against the Gaussian processes, on the same kernels and the same features.

Each takes features of K measured and L unseen kernels and ln(efficiency) of the measured ones, and answers
ln(efficiency) of the unseen ones.
"""

import numpy as np
from numpy.typing import NDArray

_Array = NDArray[np.float64]

NEAREST = "4 nearest kernels"
BOOSTED = "boosted trees"

_NUM_NEAREST = 4


def nearest(features_KF: _Array, target_K: _Array, unseen_LF: _Array) -> _Array:
    """Mean of the four nearest kernels in standardised features, each weighted by the inverse of its distance."""
    from sklearn.neighbors import KNeighborsRegressor

    scale_F = np.where(features_KF.std(0) > 1e-9, features_KF.std(0), 1.0)
    learner = KNeighborsRegressor(_NUM_NEAREST, weights="distance").fit(features_KF / scale_F, target_K)
    return np.asarray(learner.predict(unseen_LF / scale_F), dtype=np.float64)


def boosted_trees(features_KF: _Array, target_K: _Array, unseen_LF: _Array) -> _Array:
    """Gradient-boosted trees; of the settings tried (100 to 1500 trees, 15 or 31 leaves, two losses) about the best."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    learner = HistGradientBoostingRegressor(
        max_iter=600, learning_rate=0.05, max_leaf_nodes=31, early_stopping=False, random_state=0
    )
    return np.asarray(learner.fit(features_KF, target_K).predict(unseen_LF), dtype=np.float64)
