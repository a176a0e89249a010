"""ICC profiles written by hand, and what their colors are in sRGB, in float64.

The profiles hold colors adapted to D50, as ICC.1 has it; the expected values are computed from the
primaries without that detour.
"""

from __future__ import annotations

import struct

import numpy as np

D50 = np.array([0.9642, 1.0, 0.8249])
D65 = np.array([0.95047, 1.0, 1.08883])
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
DISPLAY_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE_RGB = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))

_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)

Primaries = tuple[tuple[float, float], ...]


def adapted(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The Bradford matrix [3, 3] from one white to another."""
    ratio = (_BRADFORD @ after) / (_BRADFORD @ before)
    return np.linalg.inv(_BRADFORD) @ np.diag(ratio) @ _BRADFORD


def to_xyz(primaries: Primaries) -> np.ndarray:
    """Linear RGB of a D65 display → XYZ, [3, 3]."""
    xyz = np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in primaries]).T
    return xyz * np.linalg.solve(xyz, D65)


def linear(encoded: np.ndarray) -> np.ndarray:
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def srgb(light: np.ndarray) -> np.ndarray:
    """Linear light [..., 3] → sRGB 0…255, out of gamut clipped."""
    light = light.clip(0, 1)
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return 255 * encoded


def rgb_in_srgb(pixels: np.ndarray, primaries: Primaries, gamma: float | None = None) -> np.ndarray:
    """What pixels [..., 3] of 0…255 of a display are in sRGB; its curve is sRGB's, or a power."""
    unit = pixels.astype(np.float64) / 255
    light = linear(unit) if gamma is None else unit**gamma
    return srgb(light @ (np.linalg.inv(to_xyz(SRGB)) @ to_xyz(primaries)).T)


def lab_in_srgb(lab: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (D50) [..., 3] → sRGB 0…255."""
    y = (lab[..., 0] + 16) / 116
    f = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], -1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * D50
    return srgb(xyz @ (np.linalg.inv(to_xyz(SRGB)) @ adapted(D50, D65)).T)


def rgb_profile(primaries: Primaries, gamma: float | None = None) -> bytes:
    colors = adapted(D65, D50) @ to_xyz(primaries)
    tags = {name: _xyz(colors[:, i]) for i, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))}
    tags |= {name: _curve(gamma) for name in (b"rTRC", b"gTRC", b"bTRC")}
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags)


def gray_profile(gamma: float | None) -> bytes:
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": _curve(gamma)})


def cmyk_profile(corners: np.ndarray) -> bytes:
    """`corners` [2, 2, 2, 2, 3]: L*a*b* for each ink (C, M, Y, K) on or off."""
    scale = np.array([0xFF00 / 100, 256.0, 256.0])  # of lut16Type, whose a and b start at −128
    table = np.round((corners + np.array([0, 128, 128])) * scale).astype(">u2").tobytes()
    identity = struct.pack(">9i", *(np.eye(3).ravel() * 65536).astype(int))
    ramp = struct.pack(">2H", 0, 65535)
    lut = b"mft2" + bytes(4) + bytes([4, 3, 2, 0]) + identity + struct.pack(">2H", 2, 2)
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": lut + 4 * ramp + table + 3 * ramp})


def _xyz(color: np.ndarray) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(color)


def _fixed(values: np.ndarray) -> bytes:
    return struct.pack(f">{len(values)}i", *np.round(values * 65536).astype(int))


def _curve(gamma: float | None) -> bytes:
    if gamma is not None:
        return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
    values = np.array([2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045])
    return b"para" + bytes(4) + struct.pack(">2H", 3, 0) + _fixed(values)


def _profile(kind: bytes, space: bytes, between: bytes, tags: dict[bytes, bytes]) -> bytes:
    text = b"text" + bytes(4) + b"test\0"
    name = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78)
    tags = {b"desc": name, b"cprt": text, b"wtpt": _xyz(D50), **tags}
    start, directory, data = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for tag, content in tags.items():
        content += bytes(-len(content) % 4)
        directory += tag + struct.pack(">2I", start + len(data), len(content))
        data += content
    header = struct.pack(">I4sI4s4s4s", 0, b"test", 0x02400000, kind, space, between)
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _fixed(D50)
    header += bytes(128 - len(header))
    whole = header + directory + data
    return struct.pack(">I", len(whole)) + whole[4:]
