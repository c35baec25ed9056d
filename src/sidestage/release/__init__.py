"""Change code safely: candidates, gates, comparison reports, promotion, rollback."""
