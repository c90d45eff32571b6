"""Yardsticks for latent editing: what no learning, and what white-box gradients, achieve."""

from agents.search.gradient import MyopicGradientPolicy, adam_ascent
from agents.search.random_policy import RandomPolicy

__all__ = ["MyopicGradientPolicy", "RandomPolicy", "adam_ascent"]
