"""FID and KID against closed forms and float64 references of their own."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from sdd_fast.metrics import (
    FeatureNetwork,
    Reference,
    frechet_distance,
    jackknife_interval,
    kernel_distance,
)
from sdd_fast.metrics.distributions import kernel_distance_of_all


def exactly(count: int, mean: Tensor, root: Tensor, seed: int) -> Tensor:
    """Features [count, D] of exactly this mean, and the covariance `root` @ `root`.T."""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(count, len(mean), generator=rng, dtype=torch.float64)
    x = x - x.mean(0)
    whitening = torch.linalg.cholesky(torch.linalg.inv(x.T @ x / (count - 1)))
    return x @ whitening @ root.T + mean


def test_fid_of_gaussians_whose_covariances_commute_has_a_closed_form() -> None:
    m, s, t = (torch.tensor(v, dtype=torch.float64) for v in ([3.0, 0, -1], [1, 2, 3], [2, 2, 0.5]))
    a = exactly(40, m, torch.diag(s), 0)
    b = exactly(70, torch.zeros(3, dtype=torch.float64), torch.diag(t), 1)
    expected = float(m.square().sum() + (s - t).square().sum())
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_fid_of_others_needs_the_root_of_a_product() -> None:
    rng = torch.Generator().manual_seed(2)
    roots = [torch.randn(6, 6, generator=rng, dtype=torch.float64) for _ in range(2)]
    zero = torch.zeros(6, dtype=torch.float64)
    a, b = (exactly(50, zero, root, i) for i, root in enumerate(roots))

    def root_of(matrix: np.ndarray) -> np.ndarray:
        values, vectors = np.linalg.eigh(matrix)
        return vectors @ np.diag(np.sqrt(values.clip(min=0))) @ vectors.T

    ca, cb = (np.cov(x.numpy(), rowvar=False) for x in (a, b))
    half = root_of(ca)
    expected = np.trace(ca + cb - 2 * root_of(half @ cb @ half))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)


def test_fid_of_a_set_with_itself_is_zero() -> None:
    rng = torch.Generator().manual_seed(3)
    a = torch.randn(60, 20, generator=rng)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_kid_against_its_definition() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(12, 4)), rng.normal(0.5, 1, size=(12, 4))

    def k(x: np.ndarray, y: np.ndarray) -> float:
        return (x @ y / 4 + 1) ** 3

    n = 12
    within = sum(k(x[i], x[j]) for x in (a, b) for i in range(n) for j in range(n) if i != j) / (
        n * (n - 1)
    )
    across = sum(k(x, y) for x in a for y in b) / n**2
    found = kernel_distance(torch.tensor(a), torch.tensor(b), subset_size=12, subsets=3)
    assert found.value == pytest.approx(within - 2 * across, rel=1e-9)
    assert found.spread == pytest.approx(0, abs=1e-9)  # every subset is all there is
    of_all = kernel_distance_of_all(torch.tensor(a), torch.tensor(b))
    assert of_all == pytest.approx(within - 2 * across, rel=1e-9)


def test_kid_of_photographs_that_sets_share_against_its_definition() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(9, 4)), rng.normal(0.5, 1, size=(14, 4))
    of_a, of_b = [*"abcdeabca"], [*"abcdefghijklmn"]

    def mean(x: np.ndarray, y: np.ndarray, of_x: list[str], of_y: list[str]) -> float:
        pairs = [(i, j) for i in range(len(x)) for j in range(len(y)) if of_x[i] != of_y[j]]
        return sum((float(x[i] @ y[j]) / 4 + 1) ** 3 for i, j in pairs) / len(pairs)

    expected = mean(a, a, of_a, of_a) + mean(b, b, of_b, of_b) - 2 * mean(a, b, of_a, of_b)
    given = torch.tensor(a), torch.tensor(b)
    found = kernel_distance_of_all(*given, members=of_a, reference_members=of_b)
    assert found == pytest.approx(expected, rel=1e-9)
    assert abs(found - kernel_distance_of_all(*given)) > 0.01 * abs(found)
    without = kernel_distance_of_all(*given, members=range(9), reference_members=range(9, 23))
    assert without == kernel_distance_of_all(*given)


def test_kid_of_photographs_that_repeat_has_no_bias_if_they_are_named() -> None:
    rng = torch.Generator().manual_seed(5)
    named, unnamed = [], []
    members = [*range(12)] * 3  # by three prompts
    reference_members = [*range(6, 18)] * 3  # half of them are those that are edited
    for _ in range(300):
        photographs = torch.randn(18, 4, generator=rng, dtype=torch.float64)
        a, b = photographs[members], photographs[reference_members]
        named.append(
            kernel_distance_of_all(a, b, members=members, reference_members=reference_members)
        )
        unnamed.append(kernel_distance_of_all(a, b))
    for found, biased in ((named, False), (unnamed, True)):
        mean, error = sum(found) / 300, float(torch.tensor(found).std()) / 300**0.5
        assert (abs(mean) > 5 * error) == biased and (biased or abs(mean) < 3 * error)


def test_kid_needs_images_of_two_photographs_and_a_name_for_each() -> None:
    a, b = torch.zeros(4, 3), torch.ones(5, 3)
    with pytest.raises(ValueError, match="at least 2 reference images of different members, got 1"):
        kernel_distance_of_all(a, b[:1])
    with pytest.raises(ValueError, match="at least 2 images of different members, got 1"):
        kernel_distance_of_all(a, b, members="aaaa")
    with pytest.raises(ValueError, match="a member for each of 5 reference images, got 4"):
        kernel_distance_of_all(a, b, reference_members="abcd")


def test_kid_of_all_pairs_of_sets_of_two_sizes_has_no_bias() -> None:
    rng = torch.Generator().manual_seed(3)
    large = torch.randn(4000, 3, generator=rng)
    whole = kernel_distance_of_all(large, 1.2 * large.flip(0))
    some = [
        kernel_distance_of_all(large[i : i + 40], 1.2 * large[i + 40 : i + 100])
        for i in range(0, 4000, 100)
    ]
    mean, error = sum(some) / len(some), float(torch.tensor(some).std()) / len(some) ** 0.5
    assert abs(mean - whole) < 3 * error < 0.2 * whole + 1


def test_a_jackknife_leaves_out_all_rows_of_a_member_together() -> None:
    rng = torch.Generator().manual_seed(8)
    values = torch.randn(20, generator=rng, dtype=torch.float64)

    def mean(some: torch.Tensor) -> float:
        return float(some.mean())

    once = jackknife_interval(values, mean, groups=20)
    thrice = jackknife_interval(values.repeat(3), mean, groups=20, members=[*range(20)] * 3)
    assert thrice.high - thrice.low == pytest.approx(once.high - once.low)
    with pytest.raises(ValueError, match="a member for each of 60 images, got 20"):
        jackknife_interval(values.repeat(3), mean, groups=20, members=range(20))
    with pytest.raises(ValueError, match="2 to 20 groups of 20 images, got 21"):
        jackknife_interval(values.repeat(3), mean, groups=21, members=[*range(20)] * 3)


def test_kid_of_sets_that_are_alike_is_zero_but_for_chance() -> None:
    rng = torch.Generator().manual_seed(4)
    a, b = (torch.randn(300, 5, generator=rng) for _ in range(2))
    alike = kernel_distance(a, b, subset_size=50)
    other = kernel_distance(a, b + 0.7, subset_size=50)
    assert abs(alike.value) < 0.1 < other.value


def test_a_seed_decides_on_the_subsets_and_nothing_global_does() -> None:
    rng = torch.Generator().manual_seed(5)
    a, b = (torch.randn(40, 3, generator=rng) for _ in range(2))
    before = torch.get_rng_state()
    first = kernel_distance(a, b, subset_size=10, subsets=5, seed=1)
    torch.manual_seed(99)
    assert kernel_distance(a, b, subset_size=10, subsets=5, seed=1) == first
    assert kernel_distance(a, b, subset_size=10, subsets=5, seed=2) != first
    torch.set_rng_state(before)


def colors(images: Tensor) -> Tensor:
    return torch.cat([images.mean((2, 3)), images.std((2, 3))], 1)


NETWORK = FeatureNetwork("colors", colors)


def images(count: int, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    level = torch.rand(count, 3, 1, 1, generator=rng) - 0.5
    return level + 0.3 * torch.rand(count, 3, 8, 8, generator=rng)


def test_distances_name_their_network() -> None:
    reference = Reference.of(NETWORK, images(30, 0), subset_size=20, groups=3)
    found = reference.distances(images(25, 1))
    a, b = colors(images(25, 1)), colors(images(30, 0))
    assert found.fid == pytest.approx(frechet_distance(a, b), rel=1e-9)
    assert found.kid == kernel_distance(a, b, subset_size=20).value
    assert (found.features, found.dimensions) == ("colors", 6)
    assert (found.count, found.reference_count, found.kid_subset_size) == (25, 30, 20)
    assert "colors" in str(found)
    only = Reference.of(NETWORK, images(30, 0), kinds=["kid"], subset_size=20)
    assert only.distances(images(25, 1)).fid is None


def test_too_few_images_are_refused_with_the_number_needed() -> None:
    with pytest.raises(ValueError, match="6 features, and needs at least 7 images.*got 6"):
        Reference.of(NETWORK, images(6, 0), kinds=["fid"])
    with pytest.raises(ValueError, match="subsets of 100 images needs at least 100; got 30"):
        Reference.of(NETWORK, images(30, 0))
    reference = Reference.of(NETWORK, images(30, 0), subset_size=10)
    with pytest.raises(ValueError, match="needs at least 7 images"):
        reference.distances(images(5, 1))
    with pytest.raises(ValueError, match="at least 21 images.*got 20 images"):
        frechet_distance(torch.zeros(20, 20), torch.zeros(40, 20))
    with pytest.raises(ValueError, match="at least 50; got 20 reference images"):
        kernel_distance(torch.zeros(60, 2), torch.zeros(20, 2), subset_size=50)


def test_other_features_are_refused() -> None:
    with pytest.raises(ValueError, match="same network"):
        frechet_distance(torch.zeros(20, 3), torch.zeros(20, 4))
    with pytest.raises(ValueError, match="finite"):
        kernel_distance(torch.zeros(9, 2), torch.full((9, 2), torch.nan), subset_size=5)
    with pytest.raises(ValueError, match="fid, kid"):
        Reference.of(NETWORK, images(9, 0), kinds=["is"])


def test_without_torchmetrics_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("torchmetrics.image.fid", "torchmetrics.image.kid"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=r"sdd_fast\[metrics\]"):
        frechet_distance(torch.zeros(9, 2), torch.zeros(9, 2))
    with pytest.raises(ModuleNotFoundError, match=r"sdd_fast\[metrics\]"):
        Reference.of(NETWORK, images(9, 0), kinds=["kid"], subset_size=5)


def test_intervals_of_fid_hold_the_distance_of_so_many_images() -> None:
    """The mean over many sets of 120, of which FID is a little too large."""
    rng = torch.Generator().manual_seed(6)
    reference = torch.randn(400, 3, generator=rng)
    sets = [torch.randn(120, 3, generator=rng) * 1.3 + 0.3 for _ in range(40)]

    def distance(features: Tensor) -> float:
        return frechet_distance(features, reference)

    found = [jackknife_interval(features, distance, groups=10) for features in sets]
    mean = sum(one.estimate for one in found) / len(found)
    assert [one.estimate for one in found] == [distance(features) for features in sets]
    held = sum(one.low <= mean <= one.high for one in found) / len(found)
    assert 0.85 < held
    narrower = sum(abs(one.estimate - mean) < (one.high - one.estimate) / 3 for one in found) / len(
        found
    )
    assert narrower < 0.75  # not because they are wide


def test_a_jackknife_of_a_mean_has_the_usual_standard_error() -> None:
    rng = torch.Generator().manual_seed(7)
    values = torch.randn(50, generator=rng, dtype=torch.float64)
    found = jackknife_interval(values, lambda some: float(some.mean()), groups=50)
    error = float(values.std()) / 50**0.5
    assert found.estimate == pytest.approx(float(values.mean()))
    assert found.high - found.estimate == pytest.approx(2.0096 * error, rel=1e-4)  # t of 49


def test_intervals_are_left_out_where_they_would_need_more_images() -> None:
    reference = Reference.of(NETWORK, images(30, 0), subset_size=24)
    found = reference.distances(images(25, 1))
    assert found.fid_interval is not None and found.kid_interval is None
    assert found.fid_interval.low < found.fid < found.fid_interval.high
    assert found.kid is not None
    without = Reference.of(NETWORK, images(30, 0), subset_size=24, groups=0)
    assert without.distances(images(25, 1)).fid == found.fid
    assert without.distances(images(25, 1)).fid_interval is None
    assert type(found).from_json(found.to_json()) == found
