"""The __project__ pipelines."""
