#!/usr/bin/env python3
"""Writes exact_sum_vectors.inc: sums of non-negative doubles with the result that integer arithmetic gives.

Usage: exact_sum_vectors.py > exact_sum_vectors.inc
"""
import random
import struct

LOWEST = -298  # every value is an integer times 2^LOWEST


def bits(value):
    return struct.unpack("<Q", struct.pack("<d", value))[0]


def scaled(value):
    """value / 2^LOWEST, an integer."""
    numerator, denominator = value.as_integer_ratio()
    result, rest = divmod(numerator << -LOWEST, denominator)
    assert rest == 0, value
    return result


def rounded(total):
    """total * 2^LOWEST to the nearest double, ties to even, by integers alone."""
    if total == 0:
        return 0.0
    drop = max(total.bit_length() - 53, 0)
    mantissa, rest = total >> drop, total & ((1 << drop) - 1)
    half = (1 << drop) >> 1
    if drop and (rest > half or (rest == half and mantissa & 1)):
        mantissa += 1
    result = mantissa * 2.0 ** (LOWEST + drop)
    assert result == total / 2**-LOWEST, "Python's own division rounds correctly too"
    return result


def any_double(rng, low, high):
    """52 random bits at a random exponent; bits below 2^LOWEST are cut off."""
    exponent = rng.randint(low, high)
    value = 1 + rng.getrandbits(52) / 2**52
    units = int(value * 2**52)
    shift = exponent - 52 - LOWEST
    units = units << shift if shift >= 0 else units >> -shift
    return units * 2.0**LOWEST if units < 2**53 else float(value * 2.0**exponent)


def cases():
    rng = random.Random(20)
    yield []
    yield [0.0]
    yield [2.0**-298]
    yield [2.0**-298] * 7
    yield [2.0**256] * 5
    yield [2.0**301]
    # Ties: to even below and above, and decided by one bit 500 places further down.
    yield [2.0**53, 1.0]
    yield [2.0**53 + 2, 1.0]
    yield [2.0**53, 1.0, 2.0**-298]
    yield [2.0**53 + 2, 1.0, 2.0**-298]
    yield [2.0**53, 1.0 - 2.0**-53]
    yield [2.0**256, 2.0**203, 2.0**-298]
    yield [2.0**256, 2.0**203]
    # Carries through every limb, and a mantissa that rounds up to the next power of two.
    yield [2.0**k for k in range(-298, 257)] + [2.0**-298]
    yield [2.0**k for k in range(-298, 257)]
    yield [float(2**53 - 1), 0.5]
    # Every position of the leading bit in a limb.
    for k in range(-298, -298 + 70):
        yield [2.0**k, 2.0 ** (k + 1), 2.0 ** max(k - 54, -298)]
    for _ in range(60):
        yield [any_double(rng, -298, 256) for _ in range(rng.randint(2, 40))]
    for _ in range(60):
        center = rng.randint(-290, 250)
        yield [any_double(rng, max(center - 60, -298), min(center + 3, 256)) for _ in range(rng.randint(2, 40))]


def main():
    print("// Made by exact_sum_vectors.py; do not edit. {summands, sum}, as the bits of doubles.")
    for values in cases():
        total = rounded(sum(scaled(v) for v in values))
        print("{{%s}, 0x%x}," % (", ".join("0x%x" % bits(v) for v in values), bits(total)))


main()
