"""When pipelines are due: the ticks of their triggers, each begun once and in order."""
