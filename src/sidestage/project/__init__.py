"""Where the rooms meet: a project and its verbs."""

from sidestage.project.project import Project

__all__ = ["Project"]
