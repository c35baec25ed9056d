"""Joins: with a table that is loaded, and of two streams within a time."""
