"""What a user declares: tasks, pipelines, playbooks; the graph they form; its description as values."""
