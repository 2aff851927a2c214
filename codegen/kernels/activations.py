"""tanh and sigmoid as fractions of vectors, with bounded error.

Each function returns (numerator, denominator), so that a caller can merge several divisions into
one: the division is the most expensive instruction of the LSTM's pointwise part.

float32
    tanh(x) = x P(x^2) / Q(x^2) on [-8, 8], clamped outside, with P and Q of degree 4 in x^2: 8
    fused multiply-adds. The coefficients minimise the relative error of the fraction (6.5e-9
    before rounding, by a weighted least-squares fit); evaluated in float32 the error is below
    3.0e-7 (absolute and relative) and the result never exceeds 1. 1 - tanh(8) = 2.3e-7.
    sigmoid(x) = (1 + tanh(x / 2)) / 2, error below 2.5e-7.
float64
    From exp, with clamps that keep every product of three denominators finite; near 0 tanh uses
    its Taylor series, where 1 - exp(-2x) would cancel. Relative error below 1e-13.

NaN in gives NaN out.
"""

from __future__ import annotations

from .simd import Expr, Simd
from .tir import T

_TANH_LIMIT = 8.0
_TANH_P = (1.0, 0.134445384, 3.571645822e-03, 2.189545012e-05, 1.52315156e-08)
_TANH_Q = (1.0, 0.467778653, 2.616462484e-02, 3.411370271e-04, 8.522894177e-07)

_EXP_LIMIT = 40.0  # exp(-40) is far below half an ulp of 1 in float64
_SERIES_LIMIT = 0.01
_TANH_SERIES = (1.0, -1 / 3, 2 / 15, -17 / 315)  # in x^2, times x; next term 2e-18 at the limit


def tanh_fraction(simd: Simd, x: Expr) -> tuple[Expr, Expr]:
    """Return vectors (n, d) with tanh(x) = n / d, d >= 1."""
    if simd.dtype == "float64":
        return _tanh_from_exp(simd, x)
    x = simd.clamp(x, -_TANH_LIMIT, _TANH_LIMIT)
    square = T.bind(x * x)
    return T.bind(x * _horner(simd, square, _TANH_P)), T.bind(_horner(simd, square, _TANH_Q))


def sigmoid_fraction(simd: Simd, x: Expr) -> tuple[Expr, Expr]:
    """Return vectors (n, d) with sigmoid(x) = n / d, d >= 1."""
    if simd.dtype == "float64":
        x = simd.clamp(x, -_EXP_LIMIT, _EXP_LIMIT)
        one = simd.splat(1.0)
        return one, T.bind(one + T.exp(simd.splat(0.0) - x))
    numerator, denominator = tanh_fraction(simd, T.bind(x * simd.splat(0.5)))
    return T.bind(denominator + numerator), T.bind(denominator + denominator)


def _tanh_from_exp(simd: Simd, x: Expr) -> tuple[Expr, Expr]:
    x = simd.opaque(simd.clamp(x, -_EXP_LIMIT / 2, _EXP_LIMIT / 2))
    one, limit = simd.splat(1.0), simd.splat(_SERIES_LIMIT)
    decay = T.bind(T.exp(x * simd.splat(-2.0)))
    square = simd.opaque(x * x)
    small = square < limit * limit
    series = x * _horner(simd, square, _TANH_SERIES)
    numerator = T.bind(simd.select(small, series, one - decay))
    return numerator, T.bind(simd.select(small, one, one + decay))


def _horner(simd: Simd, x: Expr, coefficients: tuple[float, ...]) -> Expr:
    value = simd.splat(coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + simd.splat(coefficient)
    return value
