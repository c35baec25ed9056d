"""The command ``sidestage``: one command for each verb of Project."""
