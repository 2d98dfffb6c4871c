"""Agents that Penstock ships."""
