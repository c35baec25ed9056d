"""Stages that work on tables and batches of a declared size."""
