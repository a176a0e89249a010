"""Domains: what belongs to one kind of image, embedded or trained by a user."""

from __future__ import annotations

from .domain import Domain, load_domain

__all__ = ["Domain", "load_domain"]
