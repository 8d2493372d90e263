"""Containers on disk that hold a migration stream: what surrounds it, and where it begins."""
