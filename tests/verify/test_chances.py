"""The chi-square test, against values of published tables; and what counts as a draw."""

import pytest

from dataplane.verify.chances import chi_square_tail


@pytest.mark.parametrize(
    ("statistic", "freedom", "chance"),
    [(3.841, 1, 0.05), (6.635, 1, 0.01), (10.828, 1, 0.001), (5.991, 2, 0.05), (18.307, 10, 0.05), (2.558, 10, 0.99), (124.342, 100, 0.05), (0, 3, 1)],
)
def test_the_tail_is_that_of_the_tables(statistic, freedom, chance):
    assert chi_square_tail(statistic, freedom) == pytest.approx(chance, rel=0.002)


def test_what_never_happens_by_chance_is_told_apart():
    assert chi_square_tail(200, 3) < 1e-40
