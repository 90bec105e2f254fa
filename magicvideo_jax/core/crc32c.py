"""CRC-32C (Castagnoli), TensorFlow's checksum of its tensors, and ours of what weights are called by.

The register after a byte is a linear function of the register before and of the byte, over the field of two
elements. So the strips of a long message go side by side, each from a register of zero, and are then joined:

    register(a b) = advance(register(a), |b|) + register(b)

where `advance` is what zero bytes do to a register, the |b|-th power of a matrix.
"""

from functools import cache

import numpy as np

_POLYNOMIAL = np.uint32(0x82F63B78)
_ONES = 0xFFFFFFFF
_STRIP = 512
"""Bytes of a strip."""
_BATCH = 1 << 22
"""Bytes that go side by side."""


def crc32c(message: bytes | memoryview | np.ndarray) -> int:
    """CRC-32C of the bytes of a message; of `b"123456789"` it is 0xe3069283."""
    data = np.frombuffer(message, np.uint8)
    register = np.uint32(_ONES)
    for start in range(0, len(data), _BATCH):
        part = data[start : start + _BATCH]
        register = _advance(np.array([register]), len(part))[0] ^ _register_of(part)
    return int(register) ^ _ONES


def _register_of(data: np.ndarray) -> np.uint32:
    """The register after some bytes, from zero."""
    count = 1
    while count * _STRIP < len(data):
        count *= 2
    # Zero bytes in front leave a register of zero as it is.
    padded = np.zeros(count * _STRIP, np.uint8)
    padded[len(padded) - len(data) :] = data
    columns = np.ascontiguousarray(padded.reshape(count, _STRIP).T)
    registers = np.zeros(count, np.uint32)
    table = _byte_table()
    for column in columns:
        registers = table[(registers ^ column) & 0xFF] ^ (registers >> np.uint32(8))
    length = _STRIP
    while len(registers) > 1:
        registers = _advance(registers[::2], length) ^ registers[1::2]
        length *= 2
    return registers[0]


def _advance(registers: np.ndarray, zeros: int) -> np.ndarray:
    """Registers after so many more zero bytes."""
    power = 0
    while zeros >> power:
        if zeros >> power & 1:
            registers = _times(_doubled(power), registers)
        power += 1
    return registers


@cache
def _doubled(power: int) -> tuple[np.uint32, ...]:
    """The matrix of 2^power zero bytes, as its columns."""
    if power == 0:
        units = np.uint32(1) << np.arange(32, dtype=np.uint32)
        return tuple(_byte_table()[units & 0xFF] ^ (units >> np.uint32(8)))
    half = _doubled(power - 1)
    return tuple(_times(half, np.array(half)))


def _times(columns: tuple[np.uint32, ...], registers: np.ndarray) -> np.ndarray:
    """Product of a matrix and each register."""
    product = np.zeros_like(registers)
    for bit, column in enumerate(columns):
        product ^= (registers >> np.uint32(bit) & np.uint32(1)) * column
    return product


@cache
def _byte_table() -> np.ndarray:
    """The register after each byte, from zero."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> np.uint32(1)) ^ (table & np.uint32(1)) * _POLYNOMIAL
    return table
