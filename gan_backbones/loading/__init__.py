"""Backbones that others bring: Python objects, manifests, graph networks."""
