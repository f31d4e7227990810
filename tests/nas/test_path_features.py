"""How layers are connected: hand-counted paths, and sums over sections against the graphs of whole networks."""

from functools import cache

import numpy as np
import pytest

from nas.samplers.path_features import NAMES, path_features, paths_of
from predictors.graph import GraphBuilder
from search_spaces.loading import load_space
from search_spaces.nasbench201 import arch_from_string

path_features_once = cache(path_features)


def test_paths_of_a_small_graph_are_those_counted_by_hand() -> None:
    # input -> 3x3 -> norm -> add -> 1x1, with a pool and the input itself added beside: three paths.
    builder = GraphBuilder()
    x = builder.input((1, 8, 16, 16))
    convolved = builder.batch_norm(builder.conv2d(x, 8, 3))
    pooled = builder.pool2d(x, "avg", 3, 1, 1)
    total = builder.elementwise("add", builder.elementwise("add", convolved, pooled), x)
    graph = builder.graph(builder.conv2d(total, 8, 1))

    longest, shortest, windows, log_number = paths_of(graph)

    assert (longest, shortest, windows) == (2.0, 1.0, 1.0)
    assert np.exp(log_number) == pytest.approx(3.0)


@pytest.mark.parametrize("keeps_dead_branches", [False, True])
@pytest.mark.parametrize(
    ("text", "layers_of_a_cell", "shortest_of_a_cell", "windows_of_a_cell", "paths_of_a_cell"),
    [
        # One behind the other: 3x3, 1x1, 3x3.
        ("|nor_conv_3x3~0|+|none~0|nor_conv_1x1~1|+|none~0|none~1|nor_conv_3x3~2|", 3, 3, 2, 1),
        # Side by side, of the same layers: 3x3 and 1x1 and 3x3, each by itself or behind an edge that is nothing.
        ("|nor_conv_3x3~0|+|nor_conv_1x1~0|none~1|+|nor_conv_3x3~0|skip_connect~1|skip_connect~2|", 1, 1, 1, 3),
        # The first edge leads nowhere: it is on no path, whether it is run or not.
        ("|nor_conv_3x3~0|+|none~0|none~1|+|avg_pool_3x3~0|none~1|none~2|", 0, 0, 1, 1),
    ],
)
def test_cells_count_as_drawn_on_paper(
    keeps_dead_branches: bool,
    text: str,
    layers_of_a_cell: int,
    shortest_of_a_cell: int,
    windows_of_a_cell: int,
    paths_of_a_cell: int,
) -> None:
    space = load_space("nasbench201", channels=(16,), num_cells=2, keeps_dead_branches=keeps_dead_branches)

    found = path_features_once(space)(space.encode([arch_from_string(space, text)]))

    # The stem, two cells, the classifier; and one for each.
    assert found["longest_path"][0] == 1 + 1 + 2 * layers_of_a_cell + 1
    assert found["shortest_path"][0] == 1 + 1 + 2 * shortest_of_a_cell + 1
    assert found["windows_on_a_path"][0] == 1 + 1 + 2 * windows_of_a_cell
    assert found["num_paths"][0] == pytest.approx(1 + paths_of_a_cell**2)


@pytest.mark.parametrize("name", ["mobilenet_v3", "resnet50d", "proxyless_tiny"])
def test_features_add_up_to_those_of_whole_networks(name: str) -> None:
    space = load_space(name)
    rng = np.random.default_rng(3)
    archs = [space.smallest(), space.largest(), *(space.sample(rng) for _ in range(6))]

    found = path_features_once(space)(space.encode(archs))

    assert found
    whole_NF = 1.0 + np.array([(*paths[:3], np.exp(paths[3])) for paths in (paths_of(space.graph(a)) for a in archs)])
    for feature, values_N in found.items():
        np.testing.assert_allclose(values_N, whole_NF[:, NAMES.index(feature)], rtol=1e-12)


def test_what_is_the_same_for_all_archs_is_no_feature() -> None:
    # Residual connections pass by all blocks that can be left out, so the shortest path has as many layers in all.
    space = load_space("mobilenet_v3")

    found = path_features_once(space)(space.encode([space.smallest(), space.largest()]))

    assert "shortest_path" not in found
    assert found["longest_path"][0] < found["longest_path"][1]
