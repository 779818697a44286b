"""Notebooks: start and finish, parameters, progress, batch runs, exercises."""
