"""Stages that look something up, and remember it."""
