"""A picture of pods created over time, ours and the limit's, as SVG written by hand: no library is worth one chart."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 60, 20, 44, 40
COLOURS = {"limit": "#9aa0a6", "ours": "#1a73e8"}
NAMES = {"limit": "limit (bare client)", "ours": "operator"}


def svg(title: str, curves: Mapping[str, Sequence[float]]) -> str:
    """Pods created (cumulative) over seconds; `curves` holds, for each side, the times in ascending order."""
    longest = max(curve[-1] for curve in curves.values()) or 1.0
    most = max(len(curve) for curve in curves.values())
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="18" font-size="14" fill="#202124">{escape(title)}</text>',
    ]
    parts += _axes(longest, most)
    for place, (name, curve) in enumerate(curves.items()):
        parts += _curve(curve, longest, most, COLOURS[name])
        x = LEFT + 170 * place
        parts.append(f'<rect x="{x}" y="26" width="12" height="4" fill="{COLOURS[name]}"/>')
        parts.append(f'<text x="{x + 18}" y="32" fill="#202124">{NAMES[name]}: {curve[-1]:.1f} s</text>')
    return "\n".join([*parts, "</svg>", ""])


def _axes(longest: float, most: int) -> list[str]:
    lines = []
    for step in range(5):
        share = step / 4
        x, y = _x(share * longest, longest), _y(share * most, most)
        lines.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#e0e0e0"/>')
        lines.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#5f6368">{share * most:.0f}</text>')
        label = f"{share * longest:.1f} s"
        lines.append(f'<text x="{x:.1f}" y="{HEIGHT - 16}" text-anchor="middle" fill="#5f6368">{label}</text>')
    return lines


def _curve(times: Sequence[float], longest: float, most: int, colour: str) -> list[str]:
    """About two hundred points, whatever the number of pods."""
    moments = [longest * step / 200 for step in range(201)]
    points = " ".join(f"{_x(at, longest):.1f},{_y(bisect_right(times, at), most):.1f}" for at in moments)
    return [f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>']


def _x(at: float, longest: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * at / longest


def _y(count: float, most: int) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * count / most
